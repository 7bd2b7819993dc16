"""Promise: whoever only plans, looks or asks loads no model library and no Ray, and planning imports nothing
of what runs, in no function and for no type."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "ray")


@pytest.mark.parametrize(
    "module",
    [
        "orchestrator.plan.planner",
        "orchestrator.plan.baseline_runs",
        "orchestrator.run.baseline_scorers",
        "orchestrator.run.overview",
        "orchestrator.upkeep.status",
        "orchestrator.query.statements",
        "orchestrator.cli",
        "orchestrator.run.device_setup",
        "orchestrator.run.schedule",
    ],
)
def test_importing_loads_neither_torch_nor_transformers_nor_ray(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


ROOT = Path(__file__).parents[3]
RUNNING = ("orchestrator.run.", "orchestrator.cli.", "orchestrator.api")


def imports_of(module: str) -> set[str]:
    """Modules of the orchestrator that one of them imports, wherever in its file."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("orchestrator.") and is_module(name)}


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_planning_imports_nothing_that_runs() -> None:
    reached = {f"orchestrator.plan.{path.stem}" for path in (ROOT / "orchestrator" / "plan").glob("[!_]*.py")}
    todo = [*reached]
    while todo:
        fresh = imports_of(todo.pop()) - reached
        reached |= fresh
        todo += fresh
    assert sorted(name for name in reached if name.startswith(RUNNING)) == []
