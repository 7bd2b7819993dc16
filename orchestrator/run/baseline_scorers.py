"""Models run without interventions, for planning: in this process, in a child, or remembered from before.

A value is made once: a cache in the user's cache folder keeps it by content (model, tokens, labels), a
committed plan keeps its own copy. `ChildScorer` has the model in another process, so that nobody who only
plans loads torch.
"""

__all__ = ["CachedScorer", "ChildScorer", "EngineScorer", "kept_runs"]

import hashlib
import json
import logging
import pickle
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self, TypeVar

import numpy as np

from orchestrator.plan.baseline_runs import COLUMNS, BaselineScorer, Columns, MissingRunsError
from orchestrator.plan.tables import Lane
from orchestrator.plan.token_text import TokenText
from workers import children
from workers.errors import RunError, SwapyardError
from workers.limits import allowed, reached
from workers.model.cache import cache_folder
from workers.model.references import resolve
from workers.vocabulary import CleanRun, Prompt, Vectors

if TYPE_CHECKING:
    from orchestrator.run.engines import Engines

CHUNK = 4096
"""Runs that are made before they are kept, at most."""
FIRST_CHUNK = 256
"""As many are made at first, before it is known how long they take."""
CHUNK_S = 5.0
"""Seconds that no piece should exceed: so much is lost to whoever is stopped."""
TELL_EVERY_S = 5.0
"""Seconds after which it is said again how far the runs are."""

_MOST_SHOWN = 24
"""Tokens of a prompt that an error shows."""

_TABLE = "CREATE TABLE IF NOT EXISTS runs (key BLOB PRIMARY KEY, packed BLOB) WITHOUT ROWID"

_PACKED = struct.Struct("<" + "".join(code for _, code in COLUMNS))

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


def kept_runs() -> Path:
    """Folder in the user's cache in which `CachedScorer` keeps runs between studies."""
    return cache_folder() / "runs"


class CachedScorer:
    """Remembers every value on disk, and asks `inner` for what is not there yet."""

    def __init__(
        self, folder: Path, inner: BaselineScorer | None, say: Callable[[str], None] = lambda line: None
    ) -> None:
        """`folder` keeps one small database a model; without `inner`, what is not kept is an error. `say` is
        told now and then how far it is."""
        self._folder = folder
        self._inner = inner
        self._say = say

    def score(self, lane: Lane, requests: Sequence[CleanRun]) -> Columns:
        """As `BaselineScorer.score`.

        Raises:
            MissingRunsError: some values are not kept, and there is no inner scorer.
        """
        if lane.training is not None:
            # Its identity says how it was trained; another machine's training of it has other numbers.
            if self._inner is None:
                raise MissingRunsError(f"{len(requests):,} unintervened runs have not been made yet")
            return self._inner.score(lane, requests)
        keys = [_key(request) for request in requests]
        known = self._read(lane, keys)
        todo = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        if todo and self._inner is None:
            raise MissingRunsError(f"{len(todo):,} unintervened runs have not been made yet")
        lacking = list(todo)
        size, done, began = min(FIRST_CHUNK, CHUNK), 0, time.monotonic()
        told = began
        while done < len(lacking):
            # Kept piece by piece: whoever is stopped has lost one piece at most.
            before = time.monotonic()
            known |= self._make(lane, {key: todo[key] for key in lacking[done : done + size]})
            done = min(len(lacking), done + size)
            now = time.monotonic()
            size = min(CHUNK, 2 * size) if now - before < CHUNK_S else max(1, size // 2)
            if now - told >= TELL_EVERY_S and done < len(lacking):
                told = now
                left_s = max(1.0, (now - began) / done * (len(lacking) - done))
                self._say(
                    f"{done:,} of {len(lacking):,} runs without interventions are done and kept · about"
                    f" {left_s:,.0f} s left"
                )
        return _columns([_PACKED.unpack(known[key]) for key in keys])

    def _make(self, lane: Lane, todo: Mapping[bytes, CleanRun]) -> dict[bytes, bytes]:
        assert self._inner is not None
        fresh = self._inner.score(lane, list(todo.values()))
        rows = zip(*(fresh[name].tolist() for name, _ in COLUMNS), strict=True)
        packed = {key: _PACKED.pack(*row) for key, row in zip(todo, rows, strict=True)}
        self._use(lane, lambda database: _keep(database, packed))
        return packed

    def _read(self, lane: Lane, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return self._use(lane, lambda database: _known(database, keys)) or {}

    def _use(self, lane: Lane, action: Callable[[sqlite3.Connection], _T]) -> _T | None:
        """Do `action` with the model's database; one that cannot be used only costs time, and gives None."""
        name = hashlib.sha256(lane.identity.encode()).hexdigest()[:24]
        path = self._folder / f"{name}.sqlite"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path, timeout=60)) as database, database:
                database.execute(_TABLE)
                return action(database)
        except (OSError, sqlite3.Error) as error:
            _log.warning("%s cannot be used (%s); delete it, and it is made again", path, error)
            return None


class EngineScorer:
    """Scores with an engine of this process."""

    def __init__(self, engines: "Engines") -> None:
        """`engines` are those that will run the jobs, so that a model is loaded once."""
        self._engines = engines

    def score(self, lane: Lane, requests: Sequence[CleanRun]) -> Columns:
        """As `BaselineScorer.score`."""
        return checked(self._engines.of(lane).clean(requests), requests, lane)


class ChildScorer:
    """Scores in a child process that loads the model when it is first asked for."""

    def __init__(self, *, threads: int, root: Path) -> None:
        """The child's torch uses `threads` threads; `root` is the folder of the study whose lanes it runs."""
        self._threads = threads
        self._root = root
        self._child: subprocess.Popen[bytes] | None = None
        self._stack = ExitStack()
        self._said: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None
        self._stack.close()

    def score(self, lane: Lane, requests: Sequence[CleanRun]) -> Columns:
        """As `BaselineScorer.score`.

        Raises:
            RunError: the child could not load or run the model, or died.
        """
        child = self._start()
        assert child.stdin is not None and child.stdout is not None
        try:
            pickle.dump((lane, list(requests)), child.stdin)
            child.stdin.flush()
            answer = pickle.load(child.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            child.kill()
            raise RunError(
                f"the process that runs {lane.spec.ref} without interventions died"
                f" ({_how(child.wait(), self._last_words())}); what it had finished is kept, so run the same"
                " command again"
            ) from error
        if isinstance(answer, str):
            raise RunError(answer)
        return dict(answer)

    def _start(self) -> "subprocess.Popen[bytes]":
        if self._child is None:
            self._said = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            # A session of its own: a Ctrl-C at the terminal is the driver's to handle.
            self._child = children.start(
                "orchestrator.run.baseline_scorers",
                str(self._threads),
                str(self._root),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,
            )
        return self._child

    def _last_words(self) -> str:
        """The last line that the child printed."""
        assert self._said is not None
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _how(status: int, said: str) -> str:
    """End of a process that last said `said`, for people."""
    if status == -signal.SIGKILL:
        return "killed, perhaps because memory ran out"
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    limits = f"limits here: {found}" if (found := allowed()) else ""
    return "; ".join(filter(None, (how, said, limits)))


def checked(columns: Columns, requests: Sequence[CleanRun], lane: Lane) -> Columns:
    """The columns of an engine, if no run failed.

    Raises:
        RunError: the model cannot run one of the prompts as it is.
    """
    for request, error in zip(requests, columns["error"], strict=True):
        if error is not None:
            why = json.loads(error)["message"]
            raise RunError(
                f"a prompt of {len(request.tokens)} tokens{_shown(request.tokens, lane)} cannot be run by"
                f" {lane.spec.ref} even unchanged: {why}"
            )
    return {name: columns[name] for name, _ in COLUMNS}


def _shown(prompt: Prompt, lane: Lane) -> str:
    """A prompt as its end shows it: in words where there is a tokeniser, else token ids; vectors are not."""
    if isinstance(prompt, Vectors):
        return ""
    some = prompt[-_MOST_SHOWN:]
    more = "" if len(some) == len(prompt) else "…"
    try:
        words = TokenText(resolve(lane.spec, fetch=False)).of(some)
    except SwapyardError:
        return f" ({more}{', '.join(map(str, some))})"
    return f" ({more + ''.join(words)!r})"


def _key(request: CleanRun) -> bytes:
    tokens = request.tokens
    given = tokens if isinstance(tokens, tuple) else (tokens.shape, tokens.digest)
    parts = (given, (request.read,), request.label_ids, request.base_label_ids)
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).digest()


def _known(database: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    distinct = list(dict.fromkeys(keys))
    for start in range(0, len(distinct), 500):
        some = distinct[start : start + 500]
        marks = ",".join("?" * len(some))
        found.update(database.execute(f"SELECT key, packed FROM runs WHERE key IN ({marks})", some))
    return found


def _keep(database: sqlite3.Connection, packed: Mapping[bytes, bytes]) -> None:
    database.executemany("INSERT OR IGNORE INTO runs VALUES (?, ?)", packed.items())


def _columns(rows: Sequence[tuple[float, ...]]) -> Columns:
    dtypes = {"f": np.float32, "i": np.int32}
    values = list(zip(*rows, strict=True)) if rows else [()] * len(COLUMNS)
    return {name: np.array(v, dtypes[code]) for (name, code), v in zip(COLUMNS, values, strict=True)}


def _serve(threads: int, root: Path) -> None:
    """The child: answers requests from stdin on stdout until stdin ends."""
    import os

    # Whatever a library prints must not land between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def send(answer: Columns | str) -> None:
        try:
            pickle.dump(answer, answers)
            answers.flush()
        except BrokenPipeError:
            # The driver is gone, and nobody waits for the answer.
            os._exit(0)

    try:
        for answer in _answers(threads, root):
            send(answer)
    except Exception as error:
        if (limit := reached(error)) is None:
            raise
        send(limit.line)


def _answers(threads: int, root: Path) -> Iterator[Columns | str]:
    """To each request of stdin its values, or what is wrong with it."""
    from orchestrator.run.engines import Engines

    engines = Engines(threads=threads, num_sharing=1, root=root)
    while True:
        try:
            lane, requests = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            yield checked(engines.of(lane).clean(requests), requests, lane)
        except SwapyardError as error:
            yield str(error)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]))
