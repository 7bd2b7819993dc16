"""Promise: no study file and no pairs file, however strange, ends in a traceback, runs anything, writes
elsewhere or takes long to be refused; what was planned can be run and read.

Seed and number come from SWAPYARD_FUZZ_SEED and SWAPYARD_FUZZ_NUM; a fault names its seed's number, and
``python -m tests.fuzz KIND --seed S --first N --num 1`` tries that file alone.
"""

import os
from pathlib import Path

import pytest
from running import swapyard

from tests.fuzz.calls import COUNT, SEED, fuzz
from tests.fuzz.pairs_files import mutants as pairs_mutants
from tests.fuzz.sandbox import in_fork
from tests.fuzz.study_files import mutants as study_mutants

MOST_PLACELESS = 0.2
"""Of refusals: those that only a model or its pairs can tell name these instead of a line."""


@pytest.mark.parametrize(("kind", "num"), [("studies", 12), ("pairs", 25)])
def test_some_odd_files_are_planned_or_refused(
    kind: str, num: int, tmp_path: Path, tiny_folder: Path
) -> None:
    found = fuzz(kind, "--seed", 7, "--num", num, "--model", tiny_folder, keep=tmp_path)
    assert found["faults"] == []
    assert found["planned"] + found["refused"] == found["num"] == num


@pytest.mark.night
@pytest.mark.timeout(0)
@pytest.mark.parametrize(("kind", "run_each"), [("studies", 0), ("pairs", 50)])
def test_many_odd_files_are_planned_or_refused(kind: str, run_each: int, tmp_path: Path) -> None:
    found = fuzz(kind, "--seed", SEED, "--num", COUNT, "--run-each", run_each, keep=tmp_path)
    assert found["faults"] == [], f"seed {SEED}, kept in {tmp_path}"
    assert found["planned"] + found["refused"] == found["num"] == COUNT
    assert found["placeless"] <= MOST_PLACELESS * found["refused"]


@pytest.mark.night
@pytest.mark.timeout(0)
def test_the_real_command_ends_as_the_fork_does(tmp_path: Path) -> None:
    for mutant in (*study_mutants(SEED, 15, "gpt2"), *pairs_mutants(SEED, 15)):
        for name, data in mutant.files.items():
            (tmp_path / name).write_bytes(data)
        done = swapyard("plan", "study.yaml", cwd=tmp_path, cache=tmp_path / "cache")
        assert done.returncode in (0, 1, 2), mutant.what
        assert "Traceback" not in done.stderr, mutant.what
        assert done.returncode == 0 or done.stderr.strip(), mutant.what


def test_one_seed_gives_one_file() -> None:
    for make in (lambda seed: study_mutants(seed, 20, "gpt2"), lambda seed: pairs_mutants(seed, 20)):
        first, again, other = ([one.files for one in make(seed)] for seed in (1, 1, 2))
        assert first == again != other


def test_a_fork_tells_of_tracebacks_files_elsewhere_and_programs(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "case", tmp_path / "elsewhere"
    folder.mkdir()

    def work() -> None:
        (folder / "mine").write_text("")
        elsewhere.write_text("")
        os.system("true")
        raise LookupError("unforeseen")

    end = in_fork(work, folder, (folder,))
    assert end.code == 99
    assert "Traceback" in end.said and "LookupError: unforeseen" in end.said
    assert end.touched == (f"wrote {elsewhere}", "started true")
    assert end.peak_mb > 1
