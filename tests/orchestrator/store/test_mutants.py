"""Promise: each thing that survival rests on is held by a test: take it away, and that test fails.

The package is copied, one line of the copy is changed, and the tests that should notice run on the copy.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import orchestrator

PACKAGES = ("orchestrator", "studies", "workers")
CODE = Path(orchestrator.__file__).parents[1]
HERE = Path(__file__).parent
POWER_LOSS = "test_power_loss.py::test_what_was_acknowledged_outlives_a_power_loss_and_the_study_goes_on"
AFTER_A_KILL = (
    "test_power_loss.py::test_a_driver_that_goes_on_after_a_kill_builds_on_nothing_that_a_power_loss_takes"
)


class Mutant(NamedTuple):
    """A change that must not go unnoticed."""

    file: str
    """Below ``orchestrator/store``."""
    text: str
    """Stands there exactly once."""
    changed: str
    test: str
    """What notices."""


MUTANTS = {
    "a part is not synced": Mutant(
        "storage.py",
        "self._disk.sync(descriptor)",
        'step == "put" or self._disk.sync(descriptor)',
        POWER_LOSS,
    ),
    "a commit is not synced before it is linked": Mutant(
        "storage.py",
        "self._disk.sync(descriptor)",
        'step == "create" or self._disk.sync(descriptor)',
        POWER_LOSS,
    ),
    "the folder of a part is not synced": Mutant(
        "storage.py",
        'around("put.folder"):\n                self._disk.sync_folder(target.parent)',
        'around("put.folder"):\n                pass',
        POWER_LOSS,
    ),
    "the folder of a commit is not synced": Mutant(
        "storage.py",
        'around("create.folder"):\n                self._disk.sync_folder(target.parent)',
        'around("create.folder"):\n                pass',
        POWER_LOSS,
    ),
    "a new folder is not synced": Mutant(
        "storage.py",
        'around("folder.sync"):\n            self._disk.sync_folder(folder.parent)',
        'around("folder.sync"):\n            pass',
        POWER_LOSS,
    ),
    "folders above the study are not synced": Mutant(
        "storage.py",
        "in reversed(folder.absolute().parents)",
        "in ()",
        POWER_LOSS,
    ),
    "a folder that a killed process made is not synced": Mutant(
        "storage.py",
        "        if folder in self._durable:",
        "        if folder in self._durable or folder.exists():",
        AFTER_A_KILL,
    ),
    "what is there already is not synced": Mutant(
        "storage.py",
        'with around("create.folder"):',
        "if made:",
        "test_power_loss.py::test_what_a_killed_process_created_is_safe_once_another_is_told_that_it_is_there",
    ),
    "a commit that could not be synced counts because it can be read": Mutant(
        "log.py",
        "        # It was written, and then something failed: once more, so that it is durable as well.\n",
        "        return True\n",
        "test_power_loss.py::test_a_commit_that_could_not_be_synced_at_first_counts_only_when_it_is_safe",
    ),
    "a lost answer is not looked up": Mutant(
        "log.py",
        "self._written(commit) or self._is_own(commit)",
        "self._written(commit)",
        "test_log.py::test_a_lost_answer_is_recognised_by_the_nonce",
    ),
    "any commit under the number is taken for our own": Mutant(
        "log.py",
        "there.nonce == commit.nonce",
        "there.kind == commit.kind",
        "test_log.py::test_a_number_that_another_took_is_not_mistaken_for_our_own",
    ),
    "jobs that are done may be done again": Mutant(
        "state.py",
        ".overlaps(manifest.k_lo, manifest.k_hi)",
        ".overlaps(manifest.k_lo, manifest.k_hi) and False",
        "test_state.py",
    ),
    "a commit replaces the one that has its number": Mutant(
        "disk.py",
        "os.link(existing, new)",
        "os.replace(existing, new)",
        "test_storage.py::test_create_writes_once_and_never_replaces",
    ),
    "a driver that lost the study may commit": Mutant(
        "log.py",
        "if self.state.epoch != epoch:",
        "if epoch < 0:",
        "test_log.py::test_a_driver_that_was_overtaken_cannot_commit_and_is_told_by_whom",
    ),
}


def copy(folder: Path) -> Path:
    """The packages once more, in `folder`."""
    for package in PACKAGES:
        shutil.copytree(CODE / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def run_tests(code: Path, tests: set[str]) -> "subprocess.CompletedProcess[str]":
    """Run tests of this folder on the packages in `code`."""
    options = (
        "-x",
        "-q",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "-o",
        f"pythonpath={code}",
        "-o",
        "addopts=",
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(str(HERE / test) for test in sorted(tests))],
        cwd=code,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", MUTANTS)
def test_the_line_that_is_changed_is_still_there(name: str) -> None:
    """By day, so that the night finds what it looks for."""
    mutant = MUTANTS[name]
    assert (CODE / "orchestrator" / "store" / mutant.file).read_text("utf-8").count(mutant.text) == 1
    file, _, test = mutant.test.partition("::")
    assert f"def {test}" in (HERE / file).read_text("utf-8")


@pytest.mark.night
def test_without_a_change_all_of_these_tests_pass(tmp_path: Path) -> None:
    done = run_tests(copy(tmp_path), {mutant.test for mutant in MUTANTS.values()})
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr


@pytest.mark.night
@pytest.mark.parametrize("name", MUTANTS)
def test_a_change_is_noticed(name: str, tmp_path: Path) -> None:
    mutant = MUTANTS[name]
    path = copy(tmp_path) / "orchestrator" / "store" / mutant.file
    text = path.read_text("utf-8")
    assert text.count(mutant.text) == 1
    path.write_text(text.replace(mutant.text, mutant.changed), "utf-8")
    done = run_tests(tmp_path, {mutant.test})
    # The tests ran, and one failed; a file that cannot even be imported gives another code.
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
