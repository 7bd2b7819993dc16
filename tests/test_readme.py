"""Every command that the README shows works as written, in the order in which it shows them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(console|yaml|python)\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    shown = [line for kind, text in BLOCKS if kind == "console" for line in text.splitlines() if line.strip()]
    assert all(line.startswith("$ ") for line in shown), shown
    return [line.removeprefix("$ ") for line in shown]


def in_shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )


def test_the_first_two_commands_are_the_demo_and_the_tests() -> None:
    assert commands()[:2] == ["make demo", "make test"]
    for target, last in (("demo", "swapyard run capitals"), ("test", '-m "kills"')):
        command = ["make", "-n", "--no-print-directory", target]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert last in told.stdout.splitlines()[-1], "the last line of the target"


def test_the_table_of_studies_names_those_that_are_bundled() -> None:
    named = re.findall(r"^\| `([a-z-]+)` \|", README, re.MULTILINE)
    assert sorted(named) == sorted(path.stem for path in (ROOT / "studies").glob("*.yaml"))


@pytest.mark.smollm2
@pytest.mark.timeout(900)
def test_the_tour_works_as_written(tmp_path: Path) -> None:
    (study,) = (text for kind, text in BLOCKS if kind == "yaml")
    (tmp_path / "spain.yaml").write_text(study, encoding="utf-8")
    scripts = [text for kind, text in BLOCKS if kind == "python"]
    for number, script in enumerate(scripts):
        (tmp_path / f"{number}.py").write_text(script, encoding="utf-8")
    toured = [c for c in commands()[2:] if not c.startswith(". ")]
    assert len(toured) >= 9 and len(scripts) == 2
    for command in [*toured, *(f"python {number}.py" for number in range(len(scripts)))]:
        done = in_shell(command, tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip() or "-o" in command, command
    assert (tmp_path / "scores.csv").read_text(encoding="utf-8").count("\n") == 901
    assert list((tmp_path / "runs" / "spain" / "plots").glob("*.png"))


@pytest.mark.smollm2
@pytest.mark.timeout(900)
def test_the_demo_answers_as_the_readme_says(tmp_path: Path) -> None:
    """What `make demo` runs: 28,800 jobs, the country moves to the last token between layers 21 and 24."""
    done = in_shell("swapyard run capitals", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "28,800 jobs" in done.stderr
    sql = """SELECT layer, base_position, avg(iia), count(*) FROM results
             WHERE site = 'block_output' GROUP BY ALL ORDER BY ALL"""
    asked = in_shell(f'swapyard query "{sql}" --format csv', tmp_path)
    rows = [tuple(map(float, line.split(","))) for line in asked.stdout.splitlines()[1:]]
    accuracy = {(int(layer), int(position)): iia for layer, position, iia, _ in rows}
    assert len(accuracy) == 150
    assert {count for *_, count in rows} == {64.0}
    assert min(accuracy[layer, 3] for layer in range(21)) >= 0.9
    assert min(accuracy[layer, 4] for layer in range(24, 30)) >= 0.9
    assert max(accuracy[layer, 4] for layer in range(20)) <= 0.1
    assert max(accuracy[layer, position] for layer in range(30) for position in range(3)) == 0.0
    assert len(list((tmp_path / "runs" / "capitals" / "plots").glob("*.svg"))) == 3
