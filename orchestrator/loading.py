"""Engines: the one place that says how many threads torch may use and how much memory captures may take."""

__all__ = ["Engines"]

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.machine import memory_bytes, num_cores
from orchestrator.plan.tables import Lane
from orchestrator.run.trained import load_trained
from workers.errors import ModelError
from workers.model.references import resolve

if TYPE_CHECKING:
    from torch import Tensor

    from orchestrator.run.fits import StudyFits
    from workers.change.subspaces import Subspace
    from workers.engine.engine import Engine
    from workers.model.loading import LoadedModel

CAPTURE_SHARE = 8
"""An engine keeps captures in this part of its share of the machine's memory."""


@dataclass(slots=True)
class Engines:
    """The engine on one lane's model at a time; asking for another lane's lets the first one go."""

    threads: int
    """Of torch. Ray gives an actor one, torch alone takes every core: neither is right, so it is set."""
    num_sharing: int | None
    """How many processes like this one share the machine's memory; None for one on each core."""
    share: float = 1.0
    """Of the memory that an engine usually takes; less after one that took all of it died."""
    fits: "StudyFits | None" = field(default=None, repr=False)
    """Those of the study that is run; whoever knows its plan gives them."""
    root: Path | None = None
    """The folder of the study whose lanes are asked for; where models are trained, they lie there."""
    _lane: int | None = None
    _engine: "Engine | None" = field(default=None, repr=False)

    def of(self, lane: Lane) -> "Engine":
        """The engine of `lane`, loaded if it is not in hand.

        Raises:
            ModelError: the model is not on this machine, or is not the one that the plan was made for.
        """
        if self._engine is None or self._lane != lane.lane:
            self._engine = None
            self._engine = self._load(lane)
            self._lane = lane.lane
        return self._engine

    def release(self) -> None:
        """Let the engine in hand go, and with it its memory."""
        self._engine = self._lane = None

    def _load(self, lane: Lane) -> "Engine":
        import torch

        from workers.engine.engine import Engine

        torch.set_num_threads(self.threads)
        budget = memory_bytes() // (self.num_sharing or num_cores()) // CAPTURE_SHARE
        model = self._model(lane)
        return Engine(
            model,
            capture_budget_bytes=int(self.share * budget),
            share=self.share,
            fits=lambda fit: self._fit(fit, model),
        )

    def _model(self, lane: Lane) -> "LoadedModel":
        from workers.model.loading import load

        if lane.training is not None:
            assert self.root is not None, "whoever asks for a trained model says in which study"
            return load_trained(self.root, lane)
        try:
            facts = resolve(lane.spec, fetch=False)
        except ModelError as error:
            planned = f"{lane.spec.ref} at revision {str(lane.spec.revision)[:12]}"
            raise ModelError(
                f"the plan was made for {planned}, which this machine does not have: {error}"
            ) from None
        return load(lane.spec, facts)

    def _fit(self, fit: str, model: "LoadedModel") -> "Subspace | Tensor":
        """A fit by its identity, made on `model` where it is not there yet."""
        assert self.fits is not None, "an engine that runs cells was given the study's fits"
        return self.fits.of(fit, model)
