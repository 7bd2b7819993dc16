"""Promise: every unstable name of another library stands in one file and is tried; its loss has a test."""

import ast
import importlib
import io
import json
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.versions import Tried, table
from tests.workers.libraries.covering import COVERED, place_of
from workers.libraries import LIBRARIES, LibraryPlace, PlaceOutcome, all_places, outcomes, tried, versions

pytestmark = pytest.mark.versions

ROOT = Path(__file__).parents[3]
OWN = ("orchestrator", "studies", "swapyard", "workers")
FILES = [file for name in OWN for file in sorted((ROOT / name).rglob("*.py"))]
OTHERS = [file for file in FILES if "workers/libraries/" not in file.as_posix()]
DOCUMENTED = {"os._exit"}
NAMED_TUPLE = {"_replace", "_asdict", "_fields"}
"""What Python documents of named tuples, whose own names must not collide with fields."""
PLACES = all_places()


@pytest.mark.versions
@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.library}: {place.name[:40]}")
def test_every_place_is_there_with_the_versions_installed(place: LibraryPlace) -> None:
    assert tried(place) == PlaceOutcome(library=place.library, name=place.name, state="ok", told="")


def test_every_place_says_what_it_is_for_and_what_is_lost_without_it() -> None:
    for place in PLACES:
        assert all((place.name, place.used_for, place.seen_with, place.without)), place
        assert all(place.marks), f"{place.name}: an empty mark is in every file"
    assert len({(place.library, place.name) for place in PLACES}) == len(PLACES)
    assert {place.library for place in PLACES} == set(LIBRARIES)
    assert set(versions()) == set(LIBRARIES)


def test_the_loss_of_every_place_has_a_test() -> None:
    for file in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(f"tests.workers.libraries.{file.stem}")
    covered = {(library, place_of(library, beginning).name) for library, beginning in COVERED}
    assert {(place.library, place.name) for place in PLACES} - covered == set()


def test_a_library_that_cannot_be_imported_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def broken(name: str) -> object:
        if name == "workers.libraries.yaml":
            raise ImportError("cannot import name 'SafeDumper'")
        return real(name)

    monkeypatch.setattr("workers.libraries.LIBRARIES", ("click", "yaml"))
    monkeypatch.setattr("workers.libraries.importlib.import_module", broken)
    assert [(one.library, one.state) for one in outcomes()] == [("click", "ok"), ("yaml", "error")]
    assert outcomes()[1].told == "ImportError: cannot import name 'SafeDumper'"


def test_the_table_of_versions_shows_what_is_lost_and_fails_on_errors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rich.console import Console

    place = ("yaml", "its table")
    columns = [
        Tried("oldest", {"yaml": "6.0.2"}, {place: ("degraded", "all text is in quotes")}),
        Tried("locked", {"yaml": "6.0.4"}, {place: ("ok", "")}),
        Tried("newest", {"yaml": "7.0.0"}, {place: ("error", "LookupError: gone")}),
    ]
    Console(width=150).print(table(columns))
    shown = capsys.readouterr().out
    for text in ("yaml 6.0.2", "yaml 7.0.0", "degraded: all text is in quotes", "error: LookupError: gone"):
        assert text in shown
    assert [column.is_sound for column in columns] == [True, True, False]


def test_an_environment_that_is_broken_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    from tests.versions import main
    from tests.versions import tried as tried_in

    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no module named duckdb' >&2\nexit 1\n")
    python.chmod(0o755)
    assert tried_in("newest", python).problem == "no module named duckdb"
    assert main([str(python)]) == 1
    assert main([str(tmp_path / "nothing")]) == 1
    python.write_text(f"#!/bin/sh\necho noise\necho '{json.dumps({'versions': {}, 'outcomes': []})}'\n")
    assert main([str(python)]) == 0


# No such name elsewhere


def code_of(file: Path) -> str:
    """A file's text without comments and docstrings."""
    text = file.read_text("utf-8")
    lines = text.splitlines(keepends=True)
    gone = [
        (token.start, token.end)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    ]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            assert node.end_lineno is not None and node.end_col_offset is not None
            gone.append(((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)))
    for (first, start), (last, end) in gone:
        for number in range(first, last + 1):
            line = lines[number - 1]
            low, high = (start if number == first else 0), (end if number == last else len(line.rstrip("\n")))
            lines[number - 1] = line[:low] + " " * (high - low) + line[high:]
    return "".join(lines)


def test_no_name_of_a_place_is_used_elsewhere() -> None:
    texts = {file: file.read_text("utf-8") for file in OTHERS}
    used = [
        f"{file.relative_to(ROOT)} uses {mark!r} ({place.library}: {place.name})"
        for place in PLACES
        for mark in place.marks
        for file, text in texts.items()
        if mark in text and mark in code_of(file)
    ]
    assert used == []


def test_marks_are_found_where_they_stand() -> None:
    code = "\n".join(code_of(file) for file in FILES if file not in OTHERS)
    marks = [mark.strip('":=(') for place in PLACES for mark in place.marks]
    assert [mark for mark in marks if mark not in code] == []


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def own_names(tree: ast.Module) -> set[str]:
    """What a file defines or sets on its own objects."""
    found = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def private_uses(text: str) -> Iterator[str]:
    """Private names of other libraries that a file's text uses: attributes, modules, imported names."""
    tree = ast.parse(text)
    own = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            is_documented = node.attr in NAMED_TUPLE or ast.unparse(node) in DOCUMENTED
            if ast.unparse(node.value) not in ("self", "cls") and not is_documented:
                yield ast.unparse(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            for alias in node.names:
                parts = [*module.split("."), *alias.name.split(".")]
                if any(is_private(part) for part in parts):
                    yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)) and name.value not in own:
                yield ast.unparse(node)


def test_no_private_name_of_another_library_is_used_elsewhere() -> None:
    found = [
        f"{file.relative_to(ROOT)}: {use}" for file in OTHERS for use in private_uses(file.read_text("utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch._C.f()",
        "from torch.utils._python_dispatch import TorchDispatchMode",
        "import torch._dynamo",
        "from duckdb import _duckdb",
        "def f(config): return getattr(config, '_attn_implementation', None)",
        "import atexit\natexit._run_exitfuncs()",
    ],
)
def test_private_names_are_recognised(text: str) -> None:
    assert len(list(private_uses(text))) == 1
