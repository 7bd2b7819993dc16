"""Promise: a name means one thing, and a text begins with its noun."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("orchestrator", "studies", "swapyard", "workers")
PATHS = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
TREES = {path: ast.parse(path.read_text("utf-8")) for path in PATHS}
PRONOUNS = re.compile(r"(What|It|Those|That|How|Where|Which|Who|When|They)\b")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def described(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every docstring with its line: of modules, classes, functions, and of what is assigned."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for before, one in zip([None, *node.body], node.body, strict=False):
                is_first = before is None
                if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)):
                    continue
                if isinstance(one.value.value, str) and (
                    is_first or isinstance(before, ast.Assign | ast.AnnAssign)
                ):
                    yield one.lineno, one.value.value.strip()


def test_texts_begin_with_their_noun() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path, tree in TREES.items()
        for line, text in described(tree)
        if PRONOUNS.match(text)
    ]
    assert wrong == []


def test_a_class_name_means_one_thing() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(module_name(path))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}
