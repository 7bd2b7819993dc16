"""Engines: the one place that says how many threads torch may use and how much memory captures may take."""

__all__ = ["Engines", "capture_budget_bytes"]

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.machine import memory_bytes, num_cores
from orchestrator.plan.tables import Lane
from orchestrator.run.throughput import known_pace, remember_pace
from orchestrator.run.trained import load_trained
from workers.code.places import NO_CODE, Code
from workers.errors import ModelError
from workers.model.references import resolve

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from orchestrator.stages.fit.fits import StudyFits
    from workers.engine.engine import Engine
    from workers.intervene.subspaces import Subspace
    from workers.model.loading import LoadedModel

CAPTURE_SHARE = 8
"""An engine keeps captures in this part of its share of the machine's memory."""
DEVICE_SHARE = 4
"""On an accelerator, in this part of what the loaded model leaves free there: forwards need the rest."""


@dataclass(slots=True)
class Engines:
    """The engine on one lane's model at a time; asking for another lane's lets the first one go."""

    threads: int
    """Of torch. Ray gives an actor one, torch alone takes every core: neither is right, so it is set."""
    num_sharing: int | None
    """Number of processes like this one that share the machine's memory; None for one on each core."""
    share: float = 1.0
    """Of the memory that an engine usually takes; less after one that took all of it died."""
    fits: "StudyFits | None" = field(default=None, repr=False)
    """Fits of the study that is run; whoever knows its plan gives them."""
    code: Code = NO_CODE
    """Place of the functions of the study."""
    remote_code: frozenset[str] = frozenset()
    """References of the models whose own code may be run."""
    root: Path | None = None
    """The folder of the study whose lanes are asked for; where models are trained, they lie there."""
    _lane: Lane | None = None
    _engine: "Engine | None" = field(default=None, repr=False)
    _pace: dict[str, int] = field(default_factory=dict)
    """Sizes of forwards that the engine in hand was last known to have found."""

    def of(self, lane: Lane) -> "Engine":
        """The engine of `lane`, loaded if it is not in hand.

        Raises:
            ModelError: the model is not on this machine, or is not the one that the plan was made for.
        """
        if self._engine is None or self._lane is None or self._lane.lane != lane.lane:
            self._engine = None
            self._engine = self._load(lane)
            self._lane = lane
        return self._engine

    def keep_pace(self) -> None:
        """Remember for runs to come what the engine in hand found of how much one forward takes.

        Writes only what is new. An engine with less memory than usual has nothing to tell.
        """
        if self._engine is None or self._lane is None or self.share < 1.0:
            return
        found = self._engine.pace()
        if found != self._pace:
            self._pace = found
            remember_pace(self._lane, _name_of(self._engine.model.device), self.threads, found)

    def release(self) -> None:
        """Let the engine in hand go, and with it its memory."""
        self._engine = self._lane = None

    def _load(self, lane: Lane) -> "Engine":
        import torch

        from workers.engine.engine import Engine

        torch.set_num_threads(self.threads)
        model = self._model(lane)
        self._pace = known_pace(lane, _name_of(model.device), self.threads) if self.share == 1.0 else {}
        return Engine(
            model,
            capture_budget_bytes=int(self.share * capture_budget_bytes(model.device, self.num_sharing)),
            share=self.share,
            pace=self._pace,
            fits=lambda fit: self._fit(fit, model),
            code=self.code,
        )

    def _model(self, lane: Lane) -> "LoadedModel":
        from workers.engine.replay.probe import probed
        from workers.model.loading import load

        if lane.training is not None:
            assert self.root is not None, "whoever asks for a trained model says in which study"
            return load_trained(self.root, lane, self.remote_code)
        try:
            facts = resolve(lane.spec, fetch=False)
        except ModelError as error:
            planned = f"{lane.spec.ref} at revision {str(lane.spec.revision)[:12]}"
            raise ModelError(
                f"the plan was made for {planned}, which this machine does not have: {error}"
            ) from None
        return probed(load(lane.spec.trusting(self.remote_code), facts))

    def _fit(self, fit: str, model: "LoadedModel") -> "Subspace | Tensor":
        """A fit by its identity, made on `model` where it is not there yet."""
        assert self.fits is not None, "an engine that runs cells was given the study's fits"
        return self.fits.of(fit, model)


def capture_budget_bytes(device: "torch.device", num_sharing: int | None) -> int:
    """Bytes that one of `num_sharing` processes may keep in captures, on the device of the model.

    On an accelerator it goes by what is free there now, and by then the model is loaded.
    """
    import torch

    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return free_bytes // DEVICE_SHARE
    return memory_bytes() // (num_sharing or num_cores()) // CAPTURE_SHARE


def _name_of(device: "torch.device") -> str:
    """Name of a device among those of its kind."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
