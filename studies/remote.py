"""Models whose folders hold Python code: whoever runs a study says whether it may run, and no file does."""

__all__ = ["remote_code", "trusting_models"]

from typing import Any

from studies.blocks import Settings
from studies.models import ModelSpec
from studies.spec import Study


def remote_code(study: Study) -> frozenset[str]:
    """References of the models of a study whose own code may be run."""
    trained = [one.model for one in (study.train or {}).values()]
    return frozenset(
        model.ref
        for model in (*study.lanes(), *trained)
        if isinstance(model, ModelSpec) and model.trust_remote_code
    )


def trusting_models(study: Study) -> Study:
    """The study, all of whose models may run the code in their folders."""
    sweep = tuple(block.model_copy(update=_models(block)) for block in study.sweep)
    train = study.train and {
        name: one.model_copy(update={"model": _trusted(one.model)}) for name, one in study.train.items()
    }
    return study.model_copy(update={"sweep": sweep, "train": train, **_models(study)})


def _models(settings: Settings) -> dict[str, Any]:
    return {
        "model": _trusted(settings.model),
        "models": settings.models and tuple(map(_trusted, settings.models)),
    }


def _trusted(model: Any) -> Any:
    """A model that may run its code; a reference to an axis, or none, stays as it is."""
    return model.trusting((model.ref,)) if isinstance(model, ModelSpec) else model
