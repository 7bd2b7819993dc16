"""Promise: each thing that survival rests on is held by a test: take it away, and that test fails."""

from collections.abc import Iterator

import pytest

from tests.mutants import LIBRARIES, Mutant, Nursery, nursery

DISK, LOG, STATE, STORAGE = (f"orchestrator/store/{name}.py" for name in ("disk", "log", "state", "storage"))


def stored(test: str) -> str:
    """A test of the store."""
    return f"orchestrator/store/{test}"


POWER_LOSS = stored(
    "test_power_loss.py::test_what_was_acknowledged_outlives_a_power_loss_and_the_study_goes_on"
)
AFTER_A_KILL = stored(
    "test_power_loss.py::test_a_driver_that_goes_on_after_a_kill_builds_on_nothing_that_a_power_loss_takes"
)

MUTANTS = {
    "a part is not synced": Mutant(
        STORAGE,
        "self._disk.sync(descriptor)",
        'step == "put" or self._disk.sync(descriptor)',
        POWER_LOSS,
    ),
    "a commit is not synced before it is linked": Mutant(
        STORAGE,
        "self._disk.sync(descriptor)",
        'step == "create" or self._disk.sync(descriptor)',
        POWER_LOSS,
    ),
    "the folder of a part is not synced": Mutant(
        STORAGE,
        'around("put.folder"):\n                self._disk.sync_folder(target.parent)',
        'around("put.folder"):\n                pass',
        POWER_LOSS,
    ),
    "the folder of a commit is not synced": Mutant(
        STORAGE,
        'around("create.folder"):\n                self._disk.sync_folder(target.parent)',
        'around("create.folder"):\n                pass',
        POWER_LOSS,
    ),
    "a new folder is not synced": Mutant(
        STORAGE,
        'around("folder.sync"):\n            self._disk.sync_folder(folder.parent)',
        'around("folder.sync"):\n            pass',
        POWER_LOSS,
    ),
    "folders above the study are not synced": Mutant(
        STORAGE,
        "in reversed(self.root.absolute().parents)",
        "in ()",
        POWER_LOSS,
    ),
    "a folder that a killed process made is not synced": Mutant(
        STORAGE,
        "        if folder in self._durable:",
        "        if folder in self._durable or folder.exists():",
        AFTER_A_KILL,
    ),
    "what is there already is not synced": Mutant(
        STORAGE,
        'with around("create.folder"):',
        "if made:",
        stored(
            "test_power_loss.py::test_what_a_killed_process_created_is_safe_once_another_is_told_that_it_is_there"
        ),
    ),
    "a commit that could not be synced counts because it can be read": Mutant(
        LOG,
        "        # It was written, and then something failed: once more, so that it is durable as well.\n",
        "        return True\n",
        stored(
            "test_power_loss.py::test_a_commit_that_could_not_be_synced_at_first_counts_only_when_it_is_safe"
        ),
    ),
    "a lost answer is not looked up": Mutant(
        LOG,
        "self._written(commit) or self._is_own(commit)",
        "self._written(commit)",
        stored("test_log.py::test_a_lost_answer_is_recognised_by_the_nonce"),
    ),
    "any commit under the number is taken for our own": Mutant(
        LOG,
        "there.nonce == commit.nonce",
        "there.kind == commit.kind",
        stored("test_log.py::test_a_number_that_another_took_is_not_mistaken_for_our_own"),
    ),
    "jobs that are done may be done again": Mutant(
        STATE,
        ".overlaps(manifest.k_lo, manifest.k_hi)",
        ".overlaps(manifest.k_lo, manifest.k_hi) and False",
        stored("test_state.py"),
    ),
    "a commit replaces the one that has its number": Mutant(
        DISK,
        "os.link(existing, new)",
        "os.replace(existing, new)",
        stored("test_storage.py::test_create_writes_once_and_never_replaces"),
    ),
    "a driver that lost the study may commit": Mutant(
        LOG,
        "if self.state.epoch != epoch:",
        "if epoch < 0:",
        stored("test_log.py::test_a_driver_that_was_overtaken_cannot_commit_and_is_told_by_whom"),
    ),
}


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with nursery(tmp_path_factory.mktemp("mutants") / "copies", LIBRARIES) as made:
        yield made


@pytest.mark.parametrize("name", MUTANTS)
def test_what_a_mutant_changes_stands_there_once(name: str) -> None:
    assert MUTANTS[name].count() == 1


@pytest.mark.night
def test_without_a_change_all_of_these_tests_pass(mutants: Nursery) -> None:
    done = mutants.unchanged({mutant.test for mutant in MUTANTS.values()})
    assert done.status == pytest.ExitCode.OK, done.output


@pytest.mark.night
@pytest.mark.parametrize("name", MUTANTS)
def test_a_change_is_noticed(name: str, mutants: Nursery) -> None:
    done = mutants.changed(MUTANTS[name])
    # The tests ran, and one failed; a file that cannot even be imported gives another status.
    assert done.status == pytest.ExitCode.TESTS_FAILED, done.output
