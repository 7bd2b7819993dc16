"""Promise: the process that runs a plan's prompts ends with a driver that is killed, and frees its memory."""

from pathlib import Path

import pytest
from running import capital_pairs, start, write_study

from tests.processes import child_at_work, wait_until_gone

pytestmark = pytest.mark.kills

FILTER = {"filter": "both_correct"}


@pytest.mark.parametrize("command", [("run", "--executor", "ray", "--no-plots"), ("plan", "--prepare")])
def test_the_planning_child_of_a_killed_driver_ends(
    command: tuple[str, ...], tmp_path: Path, tiny_folder: Path
) -> None:
    study = write_study(tmp_path, "capitals", tiny_folder, capital_pairs(), **FILTER)
    driver = start(*command, study, "--store", tmp_path, cwd=tmp_path, cache=tmp_path / "cache")
    try:
        child = child_at_work(driver.pid, "orchestrator.run.baseline_scorers")
    finally:
        driver.kill()
        driver.communicate()
    wait_until_gone(child)
