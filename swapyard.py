"""swapyard: large interchange-intervention studies, resumed at once after anything, answered in SQL.

    import swapyard as sy

    study = sy.Study(
        study="spain-italy",
        model="smollm2-135m",
        pairs=[{"base": "The capital of Spain is", "source": "The capital of Italy is",
                "base_label": " Madrid", "label": " Rome"}],
        sweep=[sy.Block(sites=["mlp_output", "attention_input"], layers="all", positions="all")],
    )
    results = sy.run(study)
    results.sql("SELECT layer, site, max(prob) FROM results GROUP BY ALL").df()

The names here are the public ones; everything else may move.
"""

from orchestrator.api import Results, open_results, plan, run
from orchestrator.overview import Overview
from orchestrator.run.driver import Outcome
from orchestrator.run.setup import Limits, RunOptions
from studies import Block, Plot, Study, Task, UnitSpec, ValueSpec, load_study
from workers.errors import (
    ClusterError,
    HeldError,
    ModelError,
    NotYetError,
    QueryError,
    RunError,
    StorageFullError,
    StoreError,
    StudyError,
    SwapyardError,
)
from workers.vocabulary import ModelSpec

__all__ = [
    "Block",
    "ClusterError",
    "HeldError",
    "Limits",
    "ModelError",
    "ModelSpec",
    "NotYetError",
    "Outcome",
    "Overview",
    "Plot",
    "QueryError",
    "Results",
    "RunError",
    "RunOptions",
    "StorageFullError",
    "StoreError",
    "Study",
    "StudyError",
    "SwapyardError",
    "Task",
    "UnitSpec",
    "ValueSpec",
    "load_study",
    "open_results",
    "plan",
    "run",
]
