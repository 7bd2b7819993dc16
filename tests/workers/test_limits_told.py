"""Promise: whatever a library says when the system refuses, it is told in one line which limit it was."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Mapping

import pytest

from workers.errors import StoreError
from workers.limits import is_our_limit, lasting, reached

PROGRAM = """
import sys
from workers.limits import is_our_limit, reached
try:
{body}
except BaseException as error:
    found = reached(error)
    assert found is not None, error
    print((found.kind, found.exit_code, found.line.count("\\n"), is_our_limit(error)), found.line)
"""
MEMORY, FILES = resource.RLIMIT_AS, resource.RLIMIT_NOFILE
MB = 10**6
CASES: Mapping[str, tuple[str, dict[int, int], str, str]] = {
    "python": ("bytearray(10**12)", {MEMORY: 200 * MB}, "memory", "ulimit -v allows this process 200 MB"),
    "a library that cannot be mapped": (
        "import numpy",
        {MEMORY: 50 * MB},
        "memory",
        "failed to map segment from shared object",
    ),
    "a stack of a thread": (
        "import time; from threading import Thread\n"
        "    for _ in range(99): Thread(target=time.sleep, args=(9,), daemon=True).start()",
        {MEMORY: 200 * MB},
        "memory",
        "can't start new thread",
    ),
    "files": (
        "every = [open('/dev/null') for _ in range(99)]",
        {FILES: 32},
        "files",
        "ulimit -n allows this process 32 at a time (/dev/null: too many open files)",
    ),
    "a full disk": (
        "with open('/dev/full', 'w') as file: file.write('a')",
        {},
        "room",
        "no room is left on the disk (no space left on device)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_limit_is_told_in_one_line(case: str) -> None:
    body, limits, kind, words = CASES[case]

    def confine() -> None:
        for number, limit in limits.items():
            resource.setrlimit(number, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=f"    {body}")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=confine,
    )
    is_ours = kind in ("memory", "files")
    assert done.stdout.startswith(f"('{kind}', {4 if kind == 'room' else 1}, 0, {is_ours}) "), done
    assert words in done.stdout


def test_what_an_error_was_raised_from_tells() -> None:
    error = StoreError("a study cannot be read")
    error.__cause__ = RuntimeError(
        "Out of Memory Error: failed to allocate block of 2048 bytes (bad allocation)"
    )
    found = reached(error)
    assert found is not None and found.kind == "memory"
    assert "(Out of Memory Error: failed to allocate block of 2048 bytes (bad allocation))" in found.line
    assert is_our_limit(error)


def test_a_file_that_may_not_be_read_is_no_limit_of_the_process() -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "part.parquet")
    found = reached(error)
    assert found is not None and "(part.parquet: permission denied)" in found.line
    assert not is_our_limit(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        KeyError("x"),
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        StoreError("a study named 'out of memory' is damaged"),
    ],
)
def test_bugs_and_our_own_words_are_no_limits(error: Exception) -> None:
    assert reached(error) is None


def test_only_memory_may_be_enough_for_less_work_at_a_time() -> None:
    assert lasting(MemoryError()) is None
    assert lasting(ValueError("a bug")) is None
    assert lasting(PermissionError(errno.EACCES, "Permission denied", "part.parquet")) is None
    for error in (OSError(errno.EMFILE, "Too many open files"), ImportError("x.so: failed to map segment")):
        assert lasting(error)
