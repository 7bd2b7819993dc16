"""Promise: a run never calls a study done of which rows are lost: it does what is open, says what is lost,
and ends with 1, until a repair lets it make them again; and a plan that is damaged is made again bit for bit,
or not at all. Nothing that is there is lost by any of it."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from running import assert_same_rows, capital_pairs, rows, write_study

from orchestrator.cli import cli
from orchestrator.store import StudyStore, verify


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A study file, and below ``runs`` the study that was run from it."""
    folder = tmp_path_factory.mktemp("lost")
    write_study(folder, "small", tiny_folder, capital_pairs())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SWAPYARD_CACHE", str(folder / "cache"))
        done = run()
    assert done.exit_code == 0, done.output
    return folder


RUN = ("run", "small.yaml", "--executor", "inline", "--no-plots")


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in a folder of its own."""
    folder = Path(shutil.copytree(world, tmp_path / "here"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SWAPYARD_CACHE", str(folder / "cache"))
    monkeypatch.setattr(verify, "_seen", set())
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, [*RUN, *arguments])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


def test_a_run_over_damaged_rows_ends_with_1_until_they_are_made_again(here: Path, world: Path) -> None:
    flip(next((here / "runs").rglob("data/**/*.parquet")))
    before = {path: path.read_bytes() for path in (here / "runs").rglob("data/**/*") if path.is_file()}
    shown = run()
    said = str(shown.exception)
    assert shown.exit_code == 1
    assert "rows are lost" in said and "swapyard doctor --repair small --store runs" in said
    assert "nothing to do" not in shown.output and "jobs done" not in shown.output
    assert before == {path: path.read_bytes() for path in before}
    verify._seen.clear()
    assert CliRunner().invoke(cli, ["doctor", "--repair", "small"]).exit_code == 0
    again = run()
    assert again.exit_code == 0, again.output
    assert_same_rows(rows(here / "runs", "small"), rows(world / "runs", "small"))


def test_what_is_open_is_done_all_the_same(here: Path, tiny_folder: Path) -> None:
    next((here / "runs").rglob("data/**/*.parquet")).unlink()
    study = json.loads((here / "small.yaml").read_text())
    study["sweep"].append({"sites": ["attention_output"], "layers": [0], "positions": [0]})
    (here / "small.yaml").write_text(json.dumps(study))
    shown = run()
    assert shown.exit_code == 1 and "what this run did as well" in str(shown.exception)
    state = StudyStore(here / "runs" / "small").state()
    mine = [part.rows for path, part in state.live.items() if path.startswith(f"data/{state.epoch}/")]
    assert sum(mine) == 12


def plan_files(here: Path) -> dict[str, bytes]:
    store = StudyStore(here / "runs" / "small")
    plan = store.latest_plan()
    assert plan is not None
    return {name: store.read_plan_file(plan, name) for name in plan.files}


@pytest.mark.parametrize("lost", [("plan.json", "study.yaml", "runs.parquet"), ()])
def test_a_damaged_plan_is_made_again_bit_for_bit(here: Path, world: Path, lost: tuple[str, ...]) -> None:
    before = plan_files(here)
    (folder,) = (here / "runs" / "small" / "plan").iterdir()
    for name in lost:
        (folder / name).unlink()
    if not lost:
        shutil.rmtree(folder)
    examined = CliRunner().invoke(cli, ["doctor", "--repair", "small"])
    problems = [line for line in examined.stdout.splitlines() if line.startswith("problem")]
    assert examined.exit_code == 1 and len(problems) == (len(lost) or len(before))
    assert all(any(name in line for line in problems) for name in lost or before)
    shown = run()
    assert shown.exit_code == 0 and "it is the same, bit for bit" in shown.output, shown.output
    assert plan_files(here) == before
    assert_same_rows(rows(here / "runs", "small"), rows(world / "runs", "small"))
    # Once more, now of the plan that was made again.
    (newer,) = {*(here / "runs" / "small" / "plan").iterdir()} - {folder}
    (newer / "cells.parquet").unlink()
    assert run().exit_code == 0 and plan_files(here) == before


def test_a_damaged_plan_of_another_study_file_is_not_made_up(here: Path) -> None:
    next((here / "runs").rglob("plan/*/tiles.parquet")).unlink()
    text = (here / "small.yaml").read_text()
    study = json.loads(text)
    (here / "small.yaml").write_text(json.dumps({**study, "pairs": study["pairs"][:6]}))
    kept = {path: path.read_bytes() for path in (here / "runs").rglob("data/**/*") if path.is_file()}
    shown = run()
    assert shown.exit_code == 1
    assert "tiles.parquet was committed and is missing, and the same plan cannot be" in str(shown.exception)
    assert kept == {path: path.read_bytes() for path in kept}
    (here / "small.yaml").write_text(text)
    assert run().exit_code == 0


def test_a_plan_that_went_on_from_an_earlier_one_is_made_again(here: Path) -> None:
    study = json.loads((here / "small.yaml").read_text())
    study["sweep"].append({"sites": ["attention_output"], "layers": [0], "positions": "all"})
    (here / "small.yaml").write_text(json.dumps(study))
    assert run().exit_code == 0
    before, known = plan_files(here), rows(here / "runs", "small")
    store = StudyStore(here / "runs" / "small")
    plan = store.latest_plan()
    assert plan is not None
    store.locate(plan.path("tiles.parquet")).unlink()
    assert run().exit_code == 0
    assert plan_files(here) == before
    assert_same_rows(rows(here / "runs", "small"), known)
