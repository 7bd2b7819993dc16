"""Promise: a log has what happened, whatever ends its process; it never ends the work that it tells of; and
the traceback of a job that fails is in it once."""

import errno
import faulthandler
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from orchestrator.run.logs import DRIVER, WorkerLog, worker_name
from orchestrator.stages.sweep.work import Slice
from orchestrator.store import Manifest
from orchestrator.upkeep.logs import SlicePlace, error_of, find_logs, slices_of, tail
from workers.engine.attempts import FailureLog, attempt
from workers.engine.engine import Batch, Engine
from workers.engine.replay.probe import probed
from workers.errors import StorageFullError
from workers.model.loading import load
from workers.model.references import resolve
from workers.vocabulary import Cell, ModelSpec, Pair

ROOT = Path(__file__).parents[2]
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
PART = f"data/1/0/{'a' * 32}.parquet"
CHILD = """
import os, sys, warnings, logging
from pathlib import Path
from orchestrator.run.logs import WorkerLog
log = WorkerLog(Path(sys.argv[1]), 1, "child")
log.capture(stdio=True)
{body}
"""


def taken(k_lo: int = 0, k_hi: int = 4) -> Slice:
    return Slice(3, 0, k_lo, k_hi, ("logits", "kl"))


def manifest(k_hi: int = 4, path: str = PART) -> Manifest:
    return Manifest(
        path=path,
        size_bytes=10,
        sha256="0" * 64,
        families=("logits", "kl"),
        lane="0",
        tile=3,
        k_lo=0,
        k_hi=k_hi,
        rows=2 * k_hi,
        failed=1,
        tiers={},
        timings={"total_s": 2.5},
        worker="7",
        host="here",
    )


def events(log: WorkerLog) -> list[str]:
    """What a log says after its head, without the times."""
    lines = log.path.read_text("utf-8").splitlines()[1:]
    return [re.sub(f"^{STAMP} ", "", line) for line in lines]


def child(folder: Path, body: str) -> tuple[int, str]:
    """How a process ends that captures everything, and its log."""
    command = [sys.executable, "-c", CHILD.format(body=body), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == done.stderr == "", "captured output went elsewhere, too"
    return done.returncode, (folder / "logs" / "1" / "child.log").read_text("utf-8")


def test_a_line_is_a_time_and_an_event_and_steers_no_terminal(tmp_path: Path) -> None:
    with WorkerLog(tmp_path, 4, worker_name()) as log:
        log.note("one \x1b[31mred\x1b[0m\rthing\nand more")
    assert log.path == tmp_path / "logs" / "4" / f"{worker_name()}.log"
    lines = log.path.read_text("utf-8").splitlines()
    assert re.fullmatch(rf"{STAMP} process {os.getpid()} on \S+, swapyard \S+, Python \S+", lines[0])
    assert re.fullmatch(rf"{STAMP} one \[31mred\[0mthing", lines[1])
    assert lines[2] == "    and more"


def test_a_slice_is_told_from_its_begin_to_its_end(tmp_path: Path) -> None:
    with WorkerLog(tmp_path, 1, "w") as log:
        log.begun(taken())
        log.ended(manifest())
    assert events(log)[:2] == [
        "slice begun: tile 3, cells [0, 4), logits+kl",
        f"slice ended: tile 3, cells [0, 4), 8 rows, 1 failed, 2.50 s, {PART}",
    ]


def test_a_retry_and_care_are_told(tmp_path: Path) -> None:
    retry = Slice(3, 0, 0, 4, ("logits",), replaces=PART, jobs=((0, 2), (7, 8)), careful=True)
    with WorkerLog(tmp_path, 1, "w") as log:
        log.begun(retry)
    assert events(log)[0].endswith(f"logits, 3 jobs of {PART}, one job at a time")


def test_a_slice_that_failed_has_its_traceback(tmp_path: Path) -> None:
    with WorkerLog(tmp_path, 1, "w") as log:
        try:
            raise ValueError("no\nsuch thing")
        except ValueError as error:
            log.failed(taken(), error)
    lines = events(log)
    assert lines[:2] == ["slice failed: tile 3, cells [0, 4)", "    Traceback (most recent call last):"]
    assert "    ValueError: no" in lines and "    such thing" in lines


def test_the_last_line_says_how_a_run_ended(tmp_path: Path) -> None:
    def end(number: int, error: BaseException | None) -> list[str]:
        log = WorkerLog(tmp_path, number, DRIVER)
        try:
            with log:
                if error is not None:
                    raise error
        except BaseException as raised:
            assert raised is error
        return events(log)

    assert end(1, None) == ["ended"]
    assert end(2, KeyboardInterrupt()) == ["interrupted"]
    assert end(3, StorageFullError("no room\nis left")) == ["error: StorageFullError: no room", "    is left"]
    bug = end(4, ZeroDivisionError("of ours"))
    assert "Traceback" in bug[0] and bug[-1] == "error: ZeroDivisionError: of ours"
    errors = [error_of(tmp_path / "logs" / str(number) / "driver.log") for number in range(1, 6)]
    ours = "StorageFullError: no room"
    assert errors == [None, None, ours, "ZeroDivisionError: of ours", None]


def test_a_full_disk_ends_no_work(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "1" / "w.log"
    path.parent.mkdir(parents=True)
    path.symlink_to("/dev/full")
    with pytest.raises(OSError) as full:
        path.write_bytes(b"x")
    assert full.value.errno == errno.ENOSPC
    with WorkerLog(tmp_path, 1, "w") as log:
        log.capture(stdio=False)
        log.begun(taken())
        logging.getLogger("any").error("lost")


def test_on_a_full_disk_printing_fails_no_job(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "1" / "child.log"
    path.parent.mkdir(parents=True)
    path.symlink_to("/dev/full")
    prints = "print('lost', flush=True)\nprint('lost', file=sys.stderr)\nwarnings.warn('lost')\n"
    body = f"{prints}log.close()\nprint('end')"
    command = [sys.executable, "-c", CHILD.format(body=body), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_a_folder_that_cannot_be_made_ends_no_work(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    with WorkerLog(tmp_path, 1, "w") as log:
        log.capture(stdio=True)
        log.note("lost")


def test_after_a_crash_the_log_has_the_stack_and_all_that_was_printed(tmp_path: Path) -> None:
    code, text = child(
        tmp_path,
        "def guilty():\n    import ctypes\n    ctypes.string_at(0)\n"
        "print('printed')\nos.write(2, b'native\\n')\nwarnings.warn('careful')\n"
        "logging.getLogger('some.library').warning('hm')\nlogging.getLogger('some.library').info('quiet')\n"
        "logging.getLogger('swapyard.engine').info('ours')\nguilty()",
    )
    assert code < 0
    for said in ("\nprinted\n", "\nnative\n", "UserWarning: careful", "WARNING some.library: hm"):
        assert said in text
    assert "INFO swapyard.engine: ours" in text and "quiet" not in text
    assert "Segmentation fault" in text and "in guilty" in text


def test_a_kill_loses_nothing_that_was_printed_or_noted(tmp_path: Path) -> None:
    code, text = child(tmp_path, "print('printed')\nlog.note('noted')\nos.kill(os.getpid(), 9)")
    assert code == -9
    assert "printed\n" in text and " noted\n" in text


def test_closing_leaves_everything_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def settings() -> list[object]:
        ours = logging.getLogger("swapyard")
        root = list(logging.getLogger().handlers)
        return [warnings.showwarning, root, ours.level, faulthandler.is_enabled()]

    before = settings()
    log = WorkerLog(tmp_path, 1, "w")
    log.capture(stdio=True)
    os.write(1, b"inside\n")
    log.close()
    log.close()
    os.write(1, b"outside\n")
    assert settings() == before
    assert capfd.readouterr().out == "outside\n"
    assert "inside" in log.path.read_text()
    log.note("after the end")


def test_a_driver_still_shows_warnings(tmp_path: Path) -> None:
    with warnings.catch_warnings(), WorkerLog(tmp_path, 1, DRIVER) as log:
        warnings.simplefilter("default")
        shown: list[str] = []
        warnings.showwarning = lambda message, *rest: shown.append(str(message))
        log.capture(stdio=False)
        warnings.warn("careful", stacklevel=1)
    assert shown == ["careful"]
    assert "UserWarning: careful" in events(log)[0]


def test_logs_are_found_with_the_newest_last(tmp_path: Path) -> None:
    with WorkerLog(tmp_path, 1, DRIVER) as first, WorkerLog(tmp_path, 2, "here-7") as second:
        second.note("\x1b[1mworks")
    os.utime(first.path, (1, 1))
    (tmp_path / "logs" / "notes").mkdir()
    (tmp_path / "logs" / "notes" / "own.log").write_text("mine")
    older, newer = find_logs(tmp_path)
    assert (older.epoch, older.name, older.pid) == (1, "driver", os.getpid())
    assert (newer.epoch, newer.name) == (2, "here-7")
    assert newer.last_line.endswith(" ended") and newer.size_bytes == second.path.stat().st_size


def test_the_tail_of_a_log_is_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\nt\x1b[2Jwo\xff\nthree\n")
    assert list(tail(path, 2)) == ["t[2Jwo\N{REPLACEMENT CHARACTER}", "three"]
    assert len(list(tail(path, 0))) == 3


def test_a_slice_is_found_by_its_part_or_by_a_cell(tmp_path: Path) -> None:
    other = f"data/1/0/{'b' * 32}.parquet"
    with WorkerLog(tmp_path, 1, "w") as log:
        log.begun(taken(0, 4))
        log.note("of the first")
        log.ended(manifest(2))
        log.note("between")
        log.begun(taken(4, 6))
        with log.path.open("a") as printed:
            printed.write(f"slice ended: says somebody, {PART}\n")
        log.ended(manifest(path=other))
        log.begun(taken(6, 9))
    (found,) = slices_of(log.path, manifest())
    assert [line.split(" ", 1)[1][:11] for line in found] == ["slice begun", "of the firs", "slice ended"]
    assert [len(lines) for lines in slices_of(log.path, SlicePlace(3, 3))] == [3]
    (unfinished,) = slices_of(log.path, SlicePlace(3, 8))
    assert unfinished[-1].endswith(" ended") and len(unfinished) == 2
    assert list(slices_of(log.path, SlicePlace(4, 0))) == []
    assert list(slices_of(tmp_path / "none.log", SlicePlace(3, 0))) == []


@pytest.fixture
def told(tmp_path: Path) -> Callable[[Callable[[], object]], str]:
    """What a worker's log says of something that it does."""

    def tell(work: Callable[[], object]) -> str:
        with WorkerLog(tmp_path, 1, "w") as log:
            log.capture(stdio=False)
            work()
        return log.path.read_text("utf-8")

    return tell


def swap(layer: int) -> Cell:
    place = {"site": "block_output", "layer": layer, "position": [2], "heads": None}
    unit = {"dims": None, "operation": "vanilla", "origin": place, "place": place, "run": "source"}
    return Cell.from_json({"read": 4, "units": [unit]})


def test_the_traceback_of_a_failing_job_is_told_once(
    tiny_folder: Path, told: Callable[[Callable[[], object]], str]
) -> None:
    """One bad row among many, found by halving: the log has it once, and names the job."""
    spec = ModelSpec(ref=str(tiny_folder), dtype="float32", device="cpu")
    model = probed(load(spec, resolve(spec, fetch=False)))
    bad = 9

    def raise_at(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if model_is_intervened and (given[0] == bad).any():
            raise ValueError("a token that it cannot stand")

    embedding = model.module.get_input_embeddings()
    embedding.register_forward_pre_hook(raise_at)
    pairs = [
        Pair(
            pair=100 + n,
            tokens={"base": (1, 2, 3, n, 8), "source": (1, 2, 3, 7, 8)},
            spans={},
            label_ids=(1,),
            base_label_ids=(2,),
        )
        for n in (4, 5, bad, 6)
    ]
    batch = Batch(cells=[(50 + n, swap(n % 3)) for n in range(6)], pairs=pairs, families=("logits",))
    engine = Engine(model, capture_budget_bytes=1 << 30, shortcut=False, resume=False)
    model_is_intervened = False
    engine.run(batch)
    model_is_intervened = True
    text = told(lambda: engine.run(batch))
    assert text.count("Traceback (most recent call last)") == 1
    assert text.count("ValueError: a token that it cannot stand") == 1
    assert "INFO swapyard.engine: cell 50 on pair 109 failed\n" in text
    assert "in raise_at" in text


def test_kinds_of_failures_are_told_until_there_are_too_many(
    told: Callable[[Callable[[], object]], str],
) -> None:
    failures = FailureLog()

    def fail() -> None:
        for n in range(100):
            failures.tell(n, 0, RuntimeError(f"kind {n // 2}"))

    text = told(fail)
    assert text.count("RuntimeError: kind") == 20
    assert text.count("more kinds of failures in this batch are not shown") == 1


def test_a_failure_keeps_its_traceback_as_text_but_none_of_its_frames(
    told: Callable[[Callable[[], object]], str],
) -> None:
    def inner() -> None:
        raise KeyError("first")

    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            raise ValueError("then") from error

    error = attempt(outer)
    assert error is not None and error.__cause__ is not None
    assert error.__traceback__ is None and error.__cause__.__traceback__ is None
    text = told(lambda: FailureLog().tell(1, 2, error))
    assert "in inner" in text and "in outer" in text and "The above exception was the direct cause" in text


def test_without_a_log_nothing_is_formatted_or_shown(capfd: pytest.CaptureFixture[str]) -> None:
    FailureLog().tell(1, 2, ValueError("quiet"))
    assert capfd.readouterr() == ("", "")
