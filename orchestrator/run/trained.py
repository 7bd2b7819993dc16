"""Models that trainings left, as engines get them."""

__all__ = ["failure_of", "load_trained", "trained_of"]

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.plan.tables import Lane
from orchestrator.stages.train.store import TrainingFolder
from orchestrator.store.storage import LocalStorage
from orchestrator.store.study_dirs import find_studies
from studies.language.trained import READ
from workers.errors import ModelError
from workers.model.references import resolve
from workers.vocabulary import ModelSpec

if TYPE_CHECKING:
    from workers.model.loading import LoadedModel


def trained_of(root: Path, trainings: Iterable[str]) -> list[str]:
    """Trainings, as lanes name them, that are done; `root` is the folder of the study that sweeps
    what they leave."""
    return [path for path in trainings if _folder(root, path)[0].done(_folder(root, path)[1]) is not None]


def failure_of(root: Path, lane: Lane) -> Mapping[str, Any] | None:
    """Why there is no model for a lane; None where there is one, or none was to be trained."""
    if lane.training is None:
        return None
    folder, training = _folder(root, lane.training)
    return None if folder.done(training) is not None else folder.failure(training)


def load_trained(root: Path, lane: Lane, remote_code: Collection[str] = ()) -> "LoadedModel":
    """The model that the training of a lane left; of models in `remote_code` their own code may be run.

    Raises:
        ModelError: it is not done.
        StoreError: what it left is damaged.
    """
    from dataclasses import replace

    from workers.engine.replay.probe import probed
    from workers.iit.trainer import TrainingState, restore
    from workers.model.loading import LoadedModel, load_module

    assert lane.training is not None
    folder, training = _folder(root, lane.training)
    artifact = folder.artifact(training)
    if artifact is None:
        study = lane.training.partition("/")[0]
        raise ModelError(
            f"the model {lane.spec.ref} is not trained yet; run the study {study!r}, which trains it"
        )
    made_of = ModelSpec.stored(artifact.about["model"]).trusting(remote_code)
    facts = resolve(made_of, fetch=False)
    module = load_module(made_of, facts, device=lane.spec.device)
    restore(module, TrainingState(artifact.weights, {}).read())
    read = lane.spec.options.get(READ)
    known = replace(facts, ref=lane.spec.ref, revision=str(lane.spec.revision), dtype=lane.spec.dtype)
    if read is not None:
        known = replace(known, num_classes=made_of.options["outputs"][read]["classes"])
    import torch

    module.to(getattr(torch, lane.spec.dtype))
    return replace(probed(LoadedModel.wrap(module, known, lane.spec)), output=read)


def _folder(root: Path, training: str) -> tuple[TrainingFolder, str]:
    """Folder of a lane's training, and its identity: in the study's own folder, or in another's beside it.

    Its identity is of all that its model hangs on: in whichever folder it lies, it is the same.
    """
    study, _, identity = training.partition("/")
    near = [root, root.parent / study]
    for names in (("done.json",), ()):
        for place in near:
            if place.joinpath("trainings", identity, *names).exists():
                return TrainingFolder(LocalStorage(place)), identity
    far = [place for place in find_studies(root.parent) if (place / "trainings" / identity).is_dir()]
    return TrainingFolder(LocalStorage((far or near)[0])), identity
