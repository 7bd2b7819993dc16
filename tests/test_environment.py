"""Promise: demo and tests run on the versions of `constraints.txt`, which lie in the ranges that users' pip
takes; CI runs what the README shows, and the oldest and the newest allowed versions besides."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.overlays import NAMES, ROOT, WATCHED, ranges, wanted

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
ASKED = [
    *PROJECT["project"]["dependencies"],
    *PROJECT["project"]["optional-dependencies"]["dev"],
    *PROJECT["build-system"]["requires"],
]
LOCK = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
PINS = [Requirement(line) for line in LOCK if not line.startswith("#")]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def pinned(python: str, machine: str = "x86_64") -> dict[str, Version]:
    """What the lock gives a Linux machine with that Python, by name."""
    place = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": machine}
    given = {**default_environment(), **place, "python_version": python, "python_full_version": f"{python}.1"}
    found: dict[str, Version] = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(given):
            name = canonicalize_name(pin.name)
            assert name not in found, f"{name} has two versions on Python {python}"
            (only,) = pin.specifier
            assert only.operator == "==", pin
            found[name] = Version(only.version)
    return found


def told(*target: str) -> list[str]:
    """The commands that `make` would run."""
    command = ["make", "--dry-run", "--always-make", "--no-print-directory", *target]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_the_ranges_and_names_all_that_is_asked_for(python: str) -> None:
    assert Version(python) in Requirement(f"python{PROJECT['project']['requires-python']}").specifier
    found = pinned(python)
    for asked in map(Requirement, ASKED):
        version = found[canonicalize_name(asked.name)]
        assert version in asked.specifier, f"{asked} is locked at {version}: run make lock"


def needed(asked: list[Requirement]) -> Iterator[str]:
    """Names of what is asked for and of all that this needs in turn, as far as it is installed."""
    waiting, seen = list(asked), set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            needs = distribution(requirement.name).requires or []
        except PackageNotFoundError:
            continue
        yield key[0]
        for need in map(Requirement, needs):
            extras = ("", *requirement.extras)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(need)


def test_the_lock_names_whatever_these_need_in_turn() -> None:
    found = set(needed([Requirement(asked) for asked in ASKED]))
    assert len(found) > 50
    assert found - set(pinned(f"{sys.version_info.major}.{sys.version_info.minor}")) == set()


def test_the_lock_says_versions_and_nothing_of_the_machine_that_made_it() -> None:
    line = r"[a-z0-9-]+==[0-9][a-z0-9.]*( ; [^/@\\]+)?"
    assert [one for one in LOCK if not one.startswith("#") and not re.fullmatch(line, one)] == []
    assert [one.strip("# ") for one in LOCK if one.startswith("#")][1:] == ["make lock"]
    names = [one.partition("==")[0] for one in LOCK if "==" in one]
    assert names == sorted(names)


def test_whatever_make_installs_for_demo_and_tests_is_held_to_the_lock() -> None:
    for target in ("demo", "test"):
        installs = [line for line in told(target) if "pip install" in line]
        assert len(installs) == 2
        assert all("--constraint constraints.txt" in line for line in installs), installs


def test_what_has_broken_us_before_has_a_bound() -> None:
    """5.24 of transformers renamed a keyword that 5.40 no longer takes; 2.1 of duckdb has not been seen."""
    allowed = {Requirement(asked).name: Requirement(asked).specifier for asked in ASKED}
    assert "5.39.9" in allowed["transformers"] and "5.40.0" not in allowed["transformers"]
    assert "2.0.9" in allowed["duckdb"] and "2.1.0" not in allowed["duckdb"]
    assert "2.99" in allowed["pydantic"] and "3.0" not in allowed["pydantic"]
    for name in PROJECT["project"]["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\w.]+,<[\w.]+", name), name


def test_an_overlay_has_the_oldest_that_is_allowed_or_the_newest() -> None:
    assert set(WATCHED) == {"transformers", "ray", "duckdb", "pyarrow", "pydantic"} < set(NAMES)
    allowed = ranges()
    for name, oldest, newest in zip(NAMES, wanted("oldest"), wanted("newest"), strict=True):
        assert oldest == f"{name}=={allowed[name].oldest}"
        assert Requirement(newest).specifier == Requirement(f"x{allowed[name].allowed}").specifier
        assert allowed[name].oldest in Requirement(newest).specifier


def test_ci_runs_what_the_readme_shows_and_both_ends_of_the_ranges() -> None:
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()]
    shown = re.findall(r"^\$ (make \w+)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert shown[:2] == ["make demo", "make test"]
    assert "make test" in lines, "CI runs other tests than people do"
    assert "set -euo pipefail" in lines, "CI would go on after a failure"
    assert "make legs" in lines
    legs = [line for line in told("legs") if "-m versions" in line]
    assert [re.findall(r"\.overlays/\w+(?=/bin)", line) for line in legs] == [
        [".overlays/oldest"],
        [".overlays/newest"],
    ]


def test_every_test_that_is_not_for_the_night_is_in_make_test() -> None:
    """Two runs share the tests out by their marks, and none is in no run or in two."""
    expressions = re.findall(r'pytest -m "?([\w ]+?)"? ?(?:-n|$)', "\n".join(told("test")), re.MULTILINE)
    assert expressions == ["not kills", "kills"]


def test_what_is_for_the_night_is_left_out_by_day() -> None:
    mutants = "tests/orchestrator/store/test_mutants.py"
    for options, is_there in (([], False), (["-m", "night"], True)):
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options]
        done = subprocess.run([*command, mutants], cwd=ROOT, capture_output=True, text=True, check=True)
        assert ("::test_a_change_is_noticed" in done.stdout) is is_there, done.stdout
        assert ("::test_what_a_mutant_changes" in done.stdout) is not is_there, done.stdout
    assert any("pytest -m night" in line for line in told("night"))
