"""Promise: `swapyard doctor` finds what is wrong with a machine's file system or a study, names it with what
to do, says so in its exit code, and changes nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from small_store import make_study

from orchestrator.cli import cli
from orchestrator.store import StudyStore
from workers.model.cache import models_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one study that is done."""
    make_study(tmp_path / "runs" / "small")
    return tmp_path / "runs"


def doctor(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *arguments, "--store", str(root)])


def problems(shown: Result) -> list[str]:
    lines = shown.stdout.splitlines()
    found = [line.removeprefix("problem").strip() for line in lines if line.startswith("problem")]
    assert shown.exit_code == bool(found), shown.output
    return found


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def the_part(root: Path) -> Path:
    (part,) = (root / "small" / "data").rglob("*.parquet")
    return part


def test_a_sound_study_has_no_problem_and_is_left_as_it_was(root: Path) -> None:
    before = files_below(root)
    shown = doctor(root)
    assert problems(shown) == []
    for said in (
        "hard links work",
        "locks work",
        "GB free in",
        "duckdb ",
        "cores",
        "3 commits, 1 parts in 1 files",
        "the plan is whole: 120 jobs",
        "every file of rows is as it was committed",
        "nothing is left over",
        "nobody drives it now",
    ):
        assert said in shown.stdout
    assert all(line.split()[0] in ("ok", "warning", "small") for line in shown.stdout.splitlines() if line)
    assert files_below(root) == before


def test_without_a_study_the_machine_is_examined_and_no_folder_made(tmp_path: Path) -> None:
    shown = doctor(tmp_path / "none" / "yet")
    assert problems(shown) == []
    assert f"GB free in {tmp_path}" in shown.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_is_found(root: Path) -> None:
    part = the_part(root)
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    (problem,) = problems(doctor(root))
    assert problem.startswith(f"{part} is damaged") and "restore it from a copy" in problem


def test_a_part_that_is_cut_or_gone_is_found(root: Path) -> None:
    part = the_part(root)
    data = part.read_bytes()
    part.write_bytes(data[:-1])
    (problem,) = problems(doctor(root, "small"))
    assert f"has {len(data) - 1:,} bytes where {len(data):,} were committed" in problem
    part.unlink()
    (problem,) = problems(doctor(root, "small"))
    assert "was committed and is missing" in problem


def test_a_gap_in_the_commits_is_found(root: Path) -> None:
    (root / "small" / "commits" / "0000000002.json").unlink()
    (problem,) = problems(doctor(root))
    assert "commits/0000000002.json is missing" in problem


def test_a_damaged_commit_and_a_damaged_format_are_found(root: Path) -> None:
    make_study(root / "other")
    (root / "small" / "commits" / "0000000003.json").write_text("{")
    (root / "other" / "format.json").write_text("{")
    first, second = problems(doctor(root))
    assert "format.json" in first and "commits/0000000003.json is damaged" in second


def test_a_damaged_plan_is_found(root: Path) -> None:
    (path,) = (root / "small" / "plan").rglob("tiles.parquet")
    path.write_bytes(path.read_bytes() + b"x")
    (problem,) = problems(doctor(root))
    assert "tiles.parquet" in problem and "damaged" in problem


def test_what_the_next_run_clears_is_counted(root: Path) -> None:
    orphan = root / "small" / "data" / "1" / "0" / f"{'a' * 32}.parquet"
    orphan.write_bytes(bytes(2_000_000))
    shown = doctor(root)
    assert problems(shown) == []
    assert "1 files (2.0 MB) are left over" in shown.stdout
    with StudyStore(root / "small").open_driver() as driver:
        driver.collect_garbage()
    assert "nothing is left over" in doctor(root).stdout


@pytest.fixture
def driven(root: Path) -> Iterator[Path]:
    with StudyStore(root / "small").open_driver():
        yield root


def test_a_driver_at_work_is_named_and_its_parts_are_not_left_over(driven: Path) -> None:
    fresh = driven / "small" / "data" / "4" / "0" / f"{'a' * 32}.parquet"
    fresh.parent.mkdir(parents=True)
    fresh.write_bytes(b"not committed yet")
    shown = doctor(driven)
    assert problems(shown) == []
    assert " drives it now" in shown.stdout and "nothing is left over" in shown.stdout


def test_a_study_without_a_plan_is_a_warning(tmp_path: Path) -> None:
    with StudyStore(tmp_path / "opened").open_driver():
        pass
    shown = doctor(tmp_path)
    assert problems(shown) == []
    assert "warning  no plan yet" in shown.stdout


def test_a_folder_that_cannot_be_written_is_a_problem() -> None:
    no_room, problem = problems(doctor(Path("/proc/sys")))
    assert no_room.startswith("0.0 GB free in /proc/sys: a run would stop at once")
    assert problem.startswith("/proc/sys cannot be written") and "--store" in problem


def test_an_unknown_study_is_named_with_what_there_is(root: Path) -> None:
    shown = doctor(root, "smal")
    assert shown.exit_code == 1 and "did you mean 'small'?" in str(shown.exception)


def test_a_fetched_model_that_is_not_the_pinned_one_is_a_problem(root: Path) -> None:
    assert not any("pinned" in line for line in doctor(root).stdout.splitlines())
    folder = models_folder() / "smollm2-135m"
    folder.mkdir(parents=True)
    for name, content in {"config.json": b"{}", "model.safetensors": b"", "tokenizer.json": b"{}"}.items():
        (folder / name).write_bytes(content)
    (found,) = problems(doctor(root))
    assert found.startswith(f"the model in {folder} cannot be read") and found.endswith("; fetch it again")
