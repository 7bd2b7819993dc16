"""Promise: a study's function is one of a Python file below its folder, or one that an installed package
offers; what it is, is told before anything runs, and a folder's modules are in nobody's way."""

import json
import sys
from pathlib import Path

import pytest

from workers.code.function_kinds import GETTER, MODEL, OPERATION
from workers.code.named import check_named, files_of, named
from workers.code.places import Code
from workers.errors import StudyError, UntrustedError

GOOD = "def f(old, other):\n    return other\n"


def code(folder: Path, *, is_trusted: bool = True) -> Code:
    return Code((folder.resolve(),), is_trusted, {"ops:f": "s.yaml:7"})


def write(folder: Path, **files: str) -> Code:
    for name, text in files.items():
        file = folder / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return code(folder)


def test_a_folder_without_trust_is_read_and_not_run(tmp_path: Path) -> None:
    write(tmp_path, ops="open('ran', 'w')\n" + GOOD)
    check_named("ops:f", OPERATION, code(tmp_path, is_trusted=False))
    with pytest.raises(UntrustedError, match=r"^s.yaml:7: intervention 'ops:f': .*: swapyard trust /"):
        named("ops:f", OPERATION, code(tmp_path, is_trusted=False))
    assert not Path("ran").exists() and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["os:system", "builtins:exec", "shutil:rmtree", "workers.errors:nearest"])
def test_what_python_can_import_is_no_function_of_a_study(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match="and no installed package offers it to studies"):
        named(name, MODEL, code(tmp_path))


def test_modules_of_the_folder_have_names_of_their_own(tmp_path: Path) -> None:
    helper = (
        "import json\nfrom lab import inner\ndef f(old, other):\n    return json.MINE, inner.f(old, other)\n"
    )
    one = write(tmp_path / "one", ops=helper, json="MINE = 1\n", lab__inner=GOOD, workers=GOOD)
    two = write(tmp_path / "two", ops="def f(old, other):\n    return 2, other\n")
    assert [named("ops:f", OPERATION, where)(0, 5) for where in (one, two)] == [(1, 5), (2, 5)]
    assert named("workers:f", OPERATION, one)(0, 5) == 5
    assert named("lab.inner:f", OPERATION, one)(0, 6) == 6
    assert sys.modules["json"] is json and hasattr(sys.modules["workers"], "__path__")
    files = [file.relative_to(tmp_path / "one").as_posix() for file in files_of("ops:f", one)]
    assert files == ["ops.py", "json.py", "lab/inner.py"]


@pytest.mark.parametrize("how", ["file", "package"])
def test_links_do_not_lead_out_of_the_folder(tmp_path: Path, how: str) -> None:
    write(tmp_path / "elsewhere", ops=GOOD, __init__=GOOD)
    (folder := tmp_path / "folder").mkdir()
    where = folder / ("ops.py" if how == "file" else "lab")
    where.symlink_to(tmp_path / "elsewhere" / ("ops.py" if how == "file" else ""))
    with pytest.raises(StudyError, match=r"leads to .*elsewhere.* outside of the study's folder"):
        named("ops:f" if how == "file" else "lab.ops:f", OPERATION, code(folder))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("from os import system as f\n", "only imports 'f' from os (line 1)"),
        ("import os as f\n", "only imports 'f' from another module (line 1)"),
        ("f = 0.5\n", "has f = 0.5 (line 1), which is no function"),
        ("def f(old): ...\n", "has f(old) (line 1), which cannot take the 2 values"),
        ("def f(old, other, *, more): ...\n", "cannot take the 2 values"),
        ("async def f(old, other): ...\n", "has a coroutine 'f'"),
        ("class f: ...\n", "has a class 'f'"),
        ("def ff(): ...\n", "has no 'f'; it defines ff"),
        ("def f(:\n", "is no Python: "),
        # These show once they run.
        (
            "import os\nglobals()['f'] = os.system\n",
            "it is 'system' of the module 'posix', which is only imported",
        ),
        ("from shutil import *\nf = rmtree\n", "of the module 'shutil', which is only imported there"),
        ("def f(*given):\n    yield 1\n", "which returns no value"),
        ("f = [len][0]\n", "it is 'len' of the module 'builtins'"),
        ("f = str.join\n", "of the module"),
        ("f = {}\nf[0] = 1\n", "it is {0: 1}, a dict"),
    ],
)
def test_what_is_no_function_of_ones_own_is_refused_before_it_is_called(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(StudyError) as caught:
        named("ops:f", OPERATION, write(tmp_path, ops=text))
    assert str(caught.value).startswith("s.yaml:7: intervention 'ops:f': ") and said in str(caught.value)
    assert str(caught.value).endswith("wanted: a function of the old and the other value, def f(old, other)")


def test_names_that_no_file_can_have_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot be looked for in"):
        check_named(f"{'a' * 300}:f", OPERATION, code(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "f = lambda tensor: tensor\n",
        "import functools\ndef g(k, tensor):\n    return tensor\nf = functools.partial(g, 1)\n",
        "class F:\n    def __call__(self, tensor):\n        return tensor\nf = F()\n",
        "if True:\n    def f(tensor, more=1):\n        return tensor\n",
        "import functools\n@functools.lru_cache\ndef f(tensor):\n    return tensor\n",
        "from helpers import g as f\n",
    ],
)
def test_functions_of_every_make_are_found(tmp_path: Path, text: str) -> None:
    where = write(tmp_path, ops=text, helpers="def g(tensor):\n    return tensor\n")
    assert named("ops:f", GETTER, where)(3) == 3


def test_installed_packages_offer_functions_and_folders_of_data_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("site-packages", "data"):
        write(tmp_path / place, offering=GOOD)
        info = tmp_path / place / "some_lab-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-lab\nVersion: 1.0\n")
        points = "[swapyard.functions]\nlimited = offering:f\nevil = os:system\n"
        (info / "entry_points.txt").write_text(points)
    (empty := tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    monkeypatch.syspath_prepend(str(tmp_path / "data"))
    with pytest.raises(StudyError, match="no installed package offers it"):
        named("some_lab:limited", OPERATION, code(empty, is_trusted=False))
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    for name in ("some_lab:limited", "offering:f"):
        assert named(name, OPERATION, code(empty, is_trusted=False))(1, 2) == 2
