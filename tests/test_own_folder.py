"""Promise: modules of the folder that a user stands in are taken for nobody else's; where a script of theirs
comes first, ``import swapyard`` says which file is in its way."""

import subprocess
import sys
from pathlib import Path

import pytest

from workers.children import run
from workers.libraries.ray import _job


def imported(folder: Path) -> "subprocess.CompletedProcess[str]":
    (folder / "script.py").write_text("import swapyard\nprint('imported')\n")
    return subprocess.run([sys.executable, "script.py"], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["workers.py", "studies/__init__.py", "tqdm.py"])
def test_import_says_which_file_is_in_its_way(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise SystemExit('theirs was run')\n")
    done = imported(tmp_path)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {file} is in the way of ") and "rename it" in last
    assert "theirs was run" not in done.stdout + done.stderr


def test_folders_of_data_are_in_nobodys_way(tmp_path: Path) -> None:
    for name in ("workers", "studies", "orchestrator", "torch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.yaml").touch()
    (tmp_path / "test.py").write_text("raise SystemExit(1)\n")
    assert imported(tmp_path).stdout == "imported\n"


def test_a_child_imports_nothing_from_the_folder_that_its_parent_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("workers", "json", "tqdm"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('theirs was run')\n")
    monkeypatch.chdir(tmp_path)
    for first in ("", str(tmp_path), "."):
        monkeypatch.setattr("sys.path", [first, *sys.path])
    done = run("site")
    assert "sys.path = [" in done.stdout and "theirs was run" not in done.stdout + done.stderr
    assert f"'{tmp_path}'," not in done.stdout.partition("USER_BASE")[0]


@pytest.mark.parametrize("root", ["/a/site-packages", "/a/checkout"])
def test_rays_workers_import_from_no_folder_of_the_driver(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    monkeypatch.setattr("workers.libraries.ray.__file__", f"{root}/workers/libraries/ray.py")
    found = _job()["job_config"]
    found._py_driver_sys_path.extend(["/here", "/theirs"])
    ours = [] if root == "/a/site-packages" else [root]
    assert list(found._get_proto_job_config().py_driver_sys_path) == ours
