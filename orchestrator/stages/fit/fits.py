"""The fits of a study as a worker gets them: read from the study's folder, or made and kept there.

Each is handed out as a unit of its own once a cell waits for it. A killed run makes again only what was not
finished, and two workers that make one at the same time all the same get the same numbers from the same seed;
the file of the first stays.
"""

__all__ = ["StudyFits"]

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.plan.fit_tables import PlannedFit, planned_fits
from orchestrator.plan.tables import Plan
from orchestrator.stages.fit.making import Claim, Making
from orchestrator.stages.fit.store import FitFolder, StoredFit
from orchestrator.store.storage import LocalStorage
from studies.language.values import looked_at, tokens_at
from workers.errors import RunError
from workers.fit_methods import WITHOUT_PAIRS
from workers.vocabulary import Pair

if TYPE_CHECKING:
    from torch import Tensor

    from workers.fits.fitted import Example, Fitted
    from workers.intervene.subspaces import Subspace
    from workers.model.loading import LoadedModel

MOST_KEPT = 256
"""Fits that are held in memory at once, those used last."""

_logger = logging.getLogger("swapyard.fits")


class StudyFits:
    """The fits of one plan, by identity.

    Args:
        root: the study's folder.
        plan: whose tables say what each fit is made of.
        making: where workers say what they are at.
    """

    def __init__(self, root: Path, plan: Plan, making: Making) -> None:
        self._folder = FitFolder(LocalStorage(root))
        self._making = making
        self._plan = plan
        self._held: OrderedDict[str, Subspace | Tensor] = OrderedDict()
        self._failed: dict[str, str] = {}

    def of(self, fit: str, model: "LoadedModel") -> "Subspace | Tensor":
        """The coordinates or the vector of a fit, on the model's device.

        Raises:
            RunError: it cannot be made; said again each time, without trying again.
            StoreError: what lies in the folder cannot be used, or nothing can be written there.
        """
        if fit not in self._held:
            if self._has_failed(fit):
                raise RunError(self._failed[fit])
            self._held[fit] = self._load(fit, model)
            if len(self._held) > MOST_KEPT:
                self._held.popitem(last=False)
        self._held.move_to_end(fit)
        return self._held[fit]

    def is_settled(self, fit: str) -> bool:
        """Whether a fit need not be made by this worker: it is there, or failed in this run."""
        if fit in self._held or fit in self._failed or fit not in self._planned:
            return True
        if self._planned[fit].spec["method"] == "sae" or self._folder.about(fit) is not None:
            return True
        return self._has_failed(fit)

    def _has_failed(self, fit: str) -> bool:
        """Whether a worker of this run could not make a fit."""
        if fit not in self._failed and (why := self._making.failure(fit)) is not None:
            self._failed[fit] = why
        return fit in self._failed

    def make_one(
        self, fits: Iterable[str], model: "LoadedModel", worker: int, pulse: Callable[[], None]
    ) -> bool:
        """Make the first of these fits that nobody makes or has made; whether there was one.

        Args:
            fits: their identities.
            model: what they are made on.
            worker: the number of this worker.
            pulse: called now and then meanwhile.

        Raises:
            StoreError: nothing can be written.
        """
        for fit in fits:
            if self.is_settled(fit):
                continue
            with self._making.claimed(fit, worker) as claim:
                if claim is None:
                    continue

                def tick(step: int, claim: Claim = claim, fit: str = fit) -> None:
                    claim.tick(step, int(self._planned[fit].spec.get("num_steps") or 0))
                    pulse()

                # It says so again to whoever needs it.
                with suppress(RunError):
                    self._make(fit, model, tick)
                return True
        return False

    def _load(self, fit: str, model: "LoadedModel") -> "Subspace | Tensor":
        from workers.fits.fitted import decode_fitted

        if fit in self._planned and self._planned[fit].spec["method"] == "sae":
            # An input like the model: it is read where it lies.
            return self._fitted(self._planned[fit], model).content.to(model.device)
        stored = self._folder.read(fit) or self._make(fit, model)
        return decode_fitted(stored.tensors, stored.about).content.to(model.device)

    def _make(
        self, fit: str, model: "LoadedModel", tick: Callable[[int], None] = lambda step: None
    ) -> StoredFit:
        """Make a fit and keep it."""
        from workers.fits.fitted import encode_fitted

        if fit not in self._planned:
            raise RunError(
                f"the fit {fit} is not in the plan; run the study again, so that it is planned anew"
            )
        planned = self._planned[fit]
        tensors, about = encode_fitted(self._fitted(planned, model, tick))
        _logger.info("made the fit %s (%s): %s", planned.name, fit, about["report"])
        return self._folder.write(fit, tensors, {"spec": planned.spec, **about})

    def _fitted(
        self, planned: PlannedFit, model: "LoadedModel", tick: Callable[[int], None] = lambda step: None
    ) -> "Fitted":
        """The fit, newly made; what it fails of is remembered."""
        from workers.engine.attempts import attempt
        from workers.fits.fitted import FitSpec
        from workers.fits.fitting import fit
        from workers.libraries.torch import is_out_of_memory

        made: list[Fitted] = []
        spec = FitSpec.from_json(planned.spec)
        examples = [self._example(planned, number) for number in range(len(planned.pairs))]
        held_out = [self._example(planned, number, held_out=True) for number in range(len(planned.held_out))]
        error = attempt(lambda: made.append(fit(spec, model, examples, held_out, tick)))
        if error is None:
            return made[0]
        layer = "" if spec.layer is None else f", layer {spec.layer}"
        what = f"the fit {planned.name!r} ({spec.method}) at {spec.site}{layer}"
        why = f"{what} failed: {type(error).__name__}: {error}"
        self._failed[planned.fit] = why
        if not is_out_of_memory(error):
            # A worker with more memory may make it.
            self._making.fail(planned.fit, why)
        raise RunError(why) from error

    def _example(self, planned: PlannedFit, number: int, *, held_out: bool = False) -> "Example":
        """A pair of the fit, and where the fit looks in its runs."""
        from workers.fits.fitted import Example

        pair = self._plan.pairs[(planned.held_out if held_out else planned.pairs)[number]]
        method: str = planned.spec["method"]
        if method in WITHOUT_PAIRS:
            return Example(pair, {}, 0)
        runs = looked_at(method, planned.spec.get("of"), pair.tokens)
        tokens = {run: _tokens(pair, run, planned.position) for run in runs}
        read = _tokens(pair, "base", (planned.read,))
        classes = planned.classes[number] if planned.classes and not held_out else (None, None)
        return Example(pair, tokens, read[0] if read else len(pair.tokens["base"]) - 1, classes)

    @cached_property
    def _planned(self) -> dict[str, PlannedFit]:
        return planned_fits(self._plan.tables)


def _tokens(pair: Pair, run: str, position: Any) -> tuple[int, ...]:
    return tokens_at(position, len(pair.tokens[run]), pair.spans.get(run, {})) or ()
