"""Mutants: changes of one line that must not go unnoticed, each with the test that notices.

The packages are copied, one line of the copy is changed, and the test runs on the copy. All of them run in
forks of one process that has imported the large libraries already: a mutant then costs what its test costs.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TESTS = Path(__file__).parent
PACKAGES = ("orchestrator", "studies", "workers")
LIBRARIES = (
    *("click", "duckdb", "hypothesis", "numpy", "psutil", "pyarrow.parquet", "pydantic", "rich.progress"),
    "yaml",
)
"""What most tests import, and what takes seconds."""
TORCH = (
    *LIBRARIES,
    *("torch", "transformers", "transformers.models.gpt2.modeling_gpt2", "safetensors.torch"),
    *("transformers.models.llama.modeling_llama", "transformers.models.gpt_neox.modeling_gpt_neox"),
)
"""What tests of models import as well."""
MOST_S = 60
"""For one test: a mutant may run without end."""


class Mutant(NamedTuple):
    """A change that must not go unnoticed."""

    file: str
    """From the root of the project."""
    text: str
    """Stands there exactly once; as short as that allows, so that it stays there."""
    changed: str
    test: str
    """What notices: a file below ``tests``, with ``::`` and a test where one is enough."""

    def count(self, root: Path = ROOT) -> int:
        """How often the text is in the file."""
        return (root / self.file).read_text("utf-8").count(self.text)


class Done(NamedTuple):
    """How tests ended."""

    status: int
    """Of pytest."""
    output: str


class Nursery:
    """Copies of the packages, and a process that runs tests on them.

    Args:
        folder: an empty one.
        preload: modules that are imported once.
        env: of the tests, besides this process's.
    """

    def __init__(self, folder: Path, preload: Iterable[str] = (), env: Mapping[str, str] = {}) -> None:
        self._folder = folder
        self._num_copies = 0
        self._plain = folder / "plain"
        for package in PACKAGES:
            copied = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / package, self._plain / package, ignore=copied)
        shutil.copytree(ROOT / "swapyard", self._plain / "swapyard")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants", *preload],
            cwd=ROOT,
            # Plugins that are not needed would be told off for having been imported before.
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the process."""
        self._server.communicate()

    def unchanged(self, tests: Iterable[str]) -> Done:
        """Run tests on the packages as they are; the copies made later take over what was compiled."""
        return self._run(self._plain, tests)

    def changed(self, mutant: Mutant) -> Done:
        """Run what should notice a mutant on it."""
        self._num_copies += 1
        copy = self._folder / str(self._num_copies)
        shutil.copytree(self._plain, copy)
        file = copy / mutant.file
        text = file.read_text("utf-8")
        assert text.count(mutant.text) == 1
        file.write_text(text.replace(mutant.text, mutant.changed), "utf-8")
        done = self._run(copy, [mutant.test])
        shutil.rmtree(copy)
        return done

    def _run(self, code: Path, tests: Iterable[str]) -> Done:
        assert self._server.stdin is not None and self._server.stdout is not None
        request = {"code": str(code), "tests": sorted({str(TESTS / test) for test in tests})}
        print(json.dumps(request), file=self._server.stdin, flush=True)
        status = int(self._server.stdout.readline())
        return Done(status, (code / "output").read_text("utf-8"))


@contextmanager
def nursery(folder: Path, preload: Iterable[str] = (), env: Mapping[str, str] = {}) -> Iterator[Nursery]:
    """A nursery inside the ``with``."""
    made = Nursery(folder, preload, env)
    try:
        yield made
    finally:
        made.close()


def _serve(preload: Iterable[str]) -> None:
    """Run the tests that lines of stdin name, each in a fork; say on stdout how they ended."""
    import pytest

    for name in preload:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _in_fork(lambda arguments: int(pytest.main(arguments)), Path(request["code"]), request["tests"])
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _in_fork(run: Callable[[list[str]], int], code: Path, tests: list[str]) -> None:
    """Run tests on the packages in `code`, and end this process."""
    status = 70
    try:
        output = os.open(code / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.chdir(code)
        options = ("-x", "-q", "--tb=short", "--no-header", "-p", "no:cacheprovider", "-p", "pytest_timeout")
        settings = ("addopts=", f"pythonpath={code} {ROOT}", f"timeout={MOST_S}")
        status = run([*options, *(part for one in settings for part in ("-o", one)), *tests])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1:])
