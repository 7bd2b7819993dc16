"""Promise: whoever only plans, looks or asks loads no model library and no Ray."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "ray")


@pytest.mark.parametrize(
    "module",
    [
        "orchestrator.plan.planner",
        "orchestrator.plan.clean",
        "orchestrator.run.baseline_scorers",
        "orchestrator.overview",
        "orchestrator.status",
        "orchestrator.query",
        "orchestrator.cli",
        "orchestrator.run.setup",
        "orchestrator.run.schedule",
    ],
)
def test_importing_loads_neither_torch_nor_transformers_nor_ray(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
