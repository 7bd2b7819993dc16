"""Overlays of `.venv` with the oldest and the newest allowed versions of what moves under swapyard.

`python -m tests.overlays`, which is `make overlays`, makes `.overlays/oldest` and `.overlays/newest`:
environments that see all of `.venv`, torch among it, behind what they hold themselves. With `differs` it ends
with 0 where the newest are others than those of `.venv`: else `make test` has run on them already.
"""

import json
import re
import site
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".overlays"
WATCHED = ("transformers", "ray", "duckdb", "pyarrow", "pydantic")
"""What moves under us; the legs of `.ci/run` run the tests marked `versions` on both ends of their ranges."""
WITH_THEM = ("tokenizers", "huggingface_hub", "safetensors")
"""What transformers asks for and swapyard calls itself."""
NAMES = (*WATCHED, *WITH_THEM)


@dataclass(frozen=True)
class Range:
    """Versions of one package that `pyproject.toml` allows: `oldest` itself is the first of them."""

    name: str
    oldest: str
    allowed: str
    """As pip takes it, such as `>=2.0,<2.1`."""


def ranges() -> dict[str, Range]:
    """Ranges of all that swapyard needs where it runs, by the name that `pyproject.toml` gives it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    read = (_range(line) for line in tomllib.loads(text)["project"]["dependencies"])
    return {each.name: each for each in read}


def _range(line: str) -> Range:
    matched = re.fullmatch(r"([\w-]+)(>=([\w.]+),<[\w.]+)", line)
    if matched is None:
        raise ValueError(f"pyproject.toml: {line!r} is not of the form name>=oldest,<bound")
    name, allowed, oldest = matched.groups()
    return Range(name, oldest, allowed)


def wanted(which: str) -> list[str]:
    """Requirements of an overlay: `oldest` is exact, `newest` is what pip finds in the ranges today."""
    found = [ranges()[name] for name in NAMES]
    return [each.name + (f"=={each.oldest}" if which == "oldest" else each.allowed) for each in found]


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def installed(python: Path) -> dict[str, str]:
    """Versions of `NAMES` that an environment imports."""
    code = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {NAMES}}}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def make(which: str) -> dict[str, str]:
    """Overlay `which`, made or brought up to date; returns its versions."""
    folder = FOLDER / which
    python = python_of(folder)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    _see_base(python)
    if not python.with_name("swapyard").exists():
        # Its own command, which starts its own Python.
        _install(python, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    if which == "newest" or not _is_oldest(installed(python)):
        # pip counts what it sees in the base as installed, but changes only what lies in the overlay itself.
        _install(python, "--upgrade", "--constraint", str(_base_torch(folder)), *wanted(which))
    return installed(python)


def _is_oldest(found: dict[str, str]) -> bool:
    return all(Version(one) == Version(ranges()[name].oldest) for name, one in found.items())


def _install(python: Path, *what: str) -> None:
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "--disable-pip-version-check",
        "install",
        "--quiet",
    ]
    subprocess.run([*pip, *what], check=True)


def _see_base(python: Path) -> None:
    """Behind its own packages an overlay sees the base's, and whatever those in turn see by `.pth` files."""
    code = "import site; print(site.getsitepackages()[0])"
    packages = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    base = site.getsitepackages()[0]
    Path(packages, "base.pth").write_text(f"import site; site.addsitedir({base!r})\n", encoding="utf-8")


def _base_torch(folder: Path) -> Path:
    """Constraint that keeps the base's torch, some gigabytes, from being installed once more."""
    path = folder / "constraints.txt"
    path.write_text(f"torch=={version('torch')}\n", encoding="utf-8")
    return path


def main() -> None:
    """Make both; print what they hold beside the locked environment."""
    locked = installed(Path(sys.executable))
    if sys.argv[1:] == ["differs"]:
        newest = installed(python_of(FOLDER / "newest"))
        print("newest:", newest if newest != locked else "as locked, and tested as such", flush=True)
        sys.exit(newest == locked)
    print("locked:", locked)
    for which in ("oldest", "newest"):
        print(f"{which}:", make(which), flush=True)


if __name__ == "__main__":
    main()
