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

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

_ROOT = Path(__file__).resolve().parent
_OURS = ("orchestrator", "studies", "workers")
_LIBRARIES = (
    *(
        "accelerate",
        "click",
        "duckdb",
        "filelock",
        "fsspec",
        "gguf",
        "huggingface_hub",
        "jinja2",
        "matplotlib",
    ),
    *("numpy", "packaging", "platformdirs", "psutil", "pyarrow", "pydantic", "ray", "regex", "rich"),
    *("safetensors", "tokenizers", "torch", "tqdm", "transformers", "yaml"),
)
"""What is imported here sooner or later."""


def _file_of(name: str) -> Path | None:
    """The file or the folder that a module is, or would be."""
    known = sys.modules.get(name)
    spec = find_spec(name) if known is None else getattr(known, "__spec__", None)
    found = getattr(known, "__file__", None) if spec is None else spec.origin
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    return Path(found or places[0]).resolve() if found or places else None


def _here() -> Path | None:
    """The folder of the script that runs, or the current one: its modules come before all others."""
    here = Path(sys.path[0] or os.curdir).resolve() if sys.path else _ROOT
    return None if here == _ROOT or here.name in ("site-packages", "dist-packages") else here


def _in_the_way(names: Any) -> list[Path]:
    """Files of that folder that have the names of other modules."""
    here = _here()
    files = (
        []
        if here is None
        else [here / file for name in names for file in (f"{name}.py", f"{name}/__init__.py")]
    )
    return [file for file in files if file.is_file()]


def _refuse(file: Path, what: str) -> ImportError:
    return ImportError(
        f"{file} is in the way of {what}, which swapyard needs: rename it, or run what imports swapyard in"
        " another folder (the command swapyard runs beside it)"
    )


def _check() -> None:
    """Refuse modules of the user's folder that would be taken for ours or for a library, by their files.

    Raises:
        ImportError: one is in the way.
    """
    for name in _OURS:
        file = _file_of(name)
        if file is not None and not file.is_relative_to(_ROOT / name):
            raise _refuse(file, f"its package {name!r}")
    for file in _in_the_way(_LIBRARIES):
        name = file.parent.name if file.name == "__init__.py" else file.stem
        raise _refuse(file, f"the library {name!r}")
    try:
        import_module("orchestrator.api")
    except Exception as error:
        for file in _in_the_way(sys.stdlib_module_names):
            raise _refuse(file, f"a module of Python's own ({type(error).__name__}: {error})") from error
        raise


if __name__ == "__main__" and _here() == Path.cwd():
    # As ``python -P``: the current folder's modules are nobody's but the user's.
    del sys.path[0]
_check()

from orchestrator.api import Results, open_results, plan, run
from orchestrator.overview import Overview
from orchestrator.run.driver import Outcome
from orchestrator.run.setup import Limits, RunOptions
from studies import Block, Fit, Plot, Screen, Study, Task, Train, UnitSpec, ValueSpec, load_study
from workers.errors import (
    ClusterError,
    DivergedError,
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

if TYPE_CHECKING:
    from workers.causal.model import CausalModel
    from workers.causal.module import CausalModule
    from workers.causal.sampling import Sampler
    from workers.change.features import PCA, SparseAutoencoder
    from workers.change.masks import BoundlessRotation, Mask
    from workers.change.regions import Box, Coordinates
    from workers.change.subspaces import LowRankRotation, Rotation, Subspace
    from workers.fits.units import FittedUnit, fit
    from workers.wrapper.intervenable import IntervenableModel, Intervened
    from workers.wrapper.positions import per_example
    from workers.wrapper.units import From, IntervenedRun, Mean, Noise, Unit

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
    **dict.fromkeys(("PCA", "SparseAutoencoder"), "workers.change.features"),
    **dict.fromkeys(("FittedUnit", "fit"), "workers.fits.units"),
    **dict.fromkeys(("IntervenableModel", "Intervened"), "workers.wrapper.intervenable"),
    **dict.fromkeys(("BoundlessRotation", "Mask"), "workers.change.masks"),
    "CausalModel": "workers.causal.model",
    "CausalModule": "workers.causal.module",
    "Sampler": "workers.causal.sampling",
    "per_example": "workers.wrapper.positions",
    **dict.fromkeys(("Box", "Coordinates"), "workers.change.regions"),
    **dict.fromkeys(("LowRankRotation", "Rotation", "Subspace"), "workers.change.subspaces"),
    **dict.fromkeys(("From", "IntervenedRun", "Mean", "Noise", "Unit"), "workers.wrapper.units"),
}
"""Where the names are that need torch."""


def __getattr__(name: str) -> Any:
    if name not in _OF_THE_MODEL:
        raise AttributeError(f"swapyard has no {name!r}")
    return getattr(import_module(_OF_THE_MODEL[name]), name)
