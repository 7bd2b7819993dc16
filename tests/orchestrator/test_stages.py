"""Promise: a new kind of work is a package that brings a stage, found by its entry point, for which nothing
else is touched; and whoever is killed, whenever, nothing of it is lost, doubled or wrong.
"""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from letters_stage import NAME, count_letters
from running import assert_same_rows, environment, long_pairs, rows, start, swapyard, write_study

PAIRS = long_pairs(48, 8)


def install(folder: Path) -> Path:
    """A package with the toy stage, as pip would leave it."""
    shutil.copy(Path(__file__).with_name("letters_stage.py"), folder)
    info = folder / "letters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: letters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[swapyard.stages]\nletters = letters_stage:STAGE\n")
    return folder


def counted(root: Path) -> dict[int, dict[str, int]]:
    """What lies in the study's folder."""
    return {int(path.stem): json.loads(path.read_text()) for path in (root / NAME).glob("*.json")}


@pytest.mark.kills
@pytest.mark.parametrize(
    "num_kills", [pytest.param(4, id="day"), pytest.param(20, id="night", marks=pytest.mark.night)]
)
def test_a_stage_of_another_package_survives_kills(num_kills: int, tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "site").mkdir()
    cache, site, store = tmp_path / "cache", install(tmp_path / "site"), tmp_path / "runs"
    sweep = [{"sites": ["mlp_output", "block_output"], "layer": 1, "positions": "all"}]
    study = write_study(tmp_path, "small", tiny_folder, PAIRS, sweep=sweep)
    command = ("run", study, "--executor", "inline", "--no-plots", "--store")
    env = environment(cache, PYTHONPATH=str(site))
    calm = swapyard(*command, tmp_path / "calm", cwd=tmp_path, cache=cache)
    assert calm.returncode == 0, calm.stderr
    draw = random.Random(num_kills)
    seen: dict[int, dict[str, int]] = {}
    for number in range(num_kills):
        process = start(*command, store, cwd=tmp_path, cache=cache, env=env)
        began, before, delay = time.monotonic(), len(counted(store / "small")), draw.uniform(0, 0.4)
        # Every third one anywhere from its first import on; the others while it counts, or runs its jobs.
        until = began + draw.uniform(0, 4.0) if number % 3 == 2 else None
        while process.poll() is None and (until is None or time.monotonic() < until):
            time.sleep(0.01)
            if until is None and len(counted(store / "small")) > before:
                until = time.monotonic() + delay
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = counted(store / "small")
        assert {given: found[given] for given in seen} == seen, "what was there stays as it was"
        seen = found
    done = swapyard(*command, store, cwd=tmp_path, cache=cache, env=env)
    assert done.returncode == 0, done.stderr
    expected = {}
    for given, pair in enumerate(PAIRS):
        expected[given] = {run: count_letters(pair[run]) for run in ("base", "source")}
    assert counted(store / "small") == expected
    assert_same_rows(rows(store, "small"), rows(tmp_path / "calm", "small"))
    assert not list((store / "small").glob("*/.tmp-*")), "what kills left is cleared"
    sql = f"SELECT study, count(*) AS n, sum(base) AS base FROM {NAME} GROUP BY ALL"
    asked = ("query", sql, "--store", store, "--format", "json")
    told = swapyard(*asked, cwd=tmp_path, cache=cache, env=env)
    assert told.returncode == 0, told.stderr
    total = sum(one["base"] for one in expected.values())
    assert json.loads(told.stdout) == [{"study": "small", "n": len(PAIRS), "base": total}]
    again = swapyard(*command, store, cwd=tmp_path, cache=cache, env=env)
    assert "there was nothing to do" in again.stderr


def test_the_stages_of_this_package_are_found_by_their_folders() -> None:
    from orchestrator.stages.registry import find_stage, find_stages

    names = [stage.name for stage in find_stages()]
    assert names[:2] == ["train", "estimate"], "those that change the plan are over before others begin"
    assert set(names) >= {"train", "estimate", "fit", "sweep"}
    assert find_stage("fit").folders == ("fits",)
