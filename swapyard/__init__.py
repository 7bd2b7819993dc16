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

The model alone, in a notebook:

    net = sy.IntervenableModel.load("smollm2-135m")
    swap = sy.Unit("block_output", layer=15, position=-1)
    net("The capital of Spain is", "The capital of Italy is", units=[swap]).logits

The names here are the public ones; everything else may move. Those of the model load torch when they are
first used.
"""

# ruff: noqa: E402

import sys
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from swapyard.in_the_way import check, leave_out_folder

if sys.argv[:1] == ["-m"] and "swapyard" in sys.orig_argv:
    # ``python -m swapyard`` is the command, which a folder's modules do not touch.
    leave_out_folder()
check()

from orchestrator.api import Results, open_results, plan, run
from orchestrator.run.driver import Outcome
from orchestrator.run.options import Limits, RunOptions
from orchestrator.run.overview import Overview
from studies import Block, Fit, Plot, Screen, Study, Task, Train, UnitSpec, ValueSpec, load_study
from workers.errors import (
    ClusterError,
    DivergedError,
    HeldError,
    JobsFailedError,
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

if TYPE_CHECKING:
    __version__: str
    from workers.causal.model import CausalModel
    from workers.causal.module import CausalModule
    from workers.causal.sampling import Sampler
    from workers.fits.units import FittedUnit, fit
    from workers.intervene.features import PCA, SparseAutoencoder
    from workers.intervene.intervenable import IntervenableModel, Intervened
    from workers.intervene.masks import BoundlessRotation, Mask
    from workers.intervene.positions import per_example
    from workers.intervene.regions import Box, Coordinates
    from workers.intervene.subspaces import LowRankRotation, Rotation, Subspace
    from workers.intervene.units import From, IntervenedRun, Mean, Noise, Unit

__all__ = [
    "PCA",
    "Block",
    "BoundlessRotation",
    "Box",
    "CausalModel",
    "CausalModule",
    "ClusterError",
    "Coordinates",
    "DivergedError",
    "Fit",
    "FittedUnit",
    "From",
    "HeldError",
    "IntervenableModel",
    "Intervened",
    "IntervenedRun",
    "JobsFailedError",
    "Limits",
    "LowRankRotation",
    "Mask",
    "Mean",
    "ModelError",
    "ModelSpec",
    "Noise",
    "NotYetError",
    "Outcome",
    "Overview",
    "Plot",
    "QueryError",
    "Results",
    "Rotation",
    "RunError",
    "RunOptions",
    "Sampler",
    "Screen",
    "SparseAutoencoder",
    "StorageFullError",
    "StoreError",
    "Study",
    "StudyError",
    "Subspace",
    "SwapyardError",
    "Task",
    "Train",
    "Unit",
    "UnitSpec",
    "ValueSpec",
    "fit",
    "load_study",
    "open_results",
    "per_example",
    "plan",
    "run",
]

_OF_THE_MODEL = {
    **dict.fromkeys(("PCA", "SparseAutoencoder"), "workers.intervene.features"),
    **dict.fromkeys(("FittedUnit", "fit"), "workers.fits.units"),
    **dict.fromkeys(("IntervenableModel", "Intervened"), "workers.intervene.intervenable"),
    **dict.fromkeys(("BoundlessRotation", "Mask"), "workers.intervene.masks"),
    "CausalModel": "workers.causal.model",
    "CausalModule": "workers.causal.module",
    "Sampler": "workers.causal.sampling",
    "per_example": "workers.intervene.positions",
    **dict.fromkeys(("Box", "Coordinates"), "workers.intervene.regions"),
    **dict.fromkeys(("LowRankRotation", "Rotation", "Subspace"), "workers.intervene.subspaces"),
    **dict.fromkeys(("From", "IntervenedRun", "Mean", "Noise", "Unit"), "workers.intervene.units"),
}
"""Home of each name that needs torch."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("swapyard")
    if name not in _OF_THE_MODEL:
        raise AttributeError(f"swapyard has no {name!r}")
    return getattr(import_module(_OF_THE_MODEL[name]), name)
