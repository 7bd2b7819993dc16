"""Engine of a study: jobs of different cells share a batched forward, each row changed at its own place.

Shapes: B rows of a forward, T tokens, V vocabulary.
"""

__all__ = ["Batch", "BatchResult", "Engine"]

from collections.abc import Mapping, Sequence
from dataclasses import replace

from workers.code.places import NO_CODE, Code
from workers.engine.activation_cache import ActivationCache
from workers.engine.attribution import Attribution
from workers.engine.batch import Batch, BatchResult, Column
from workers.engine.batch_size import BatchSizer
from workers.engine.rounds import Bench, Round
from workers.engine.scoring import clean_runs
from workers.errors import RunError
from workers.intervene.model_resources import FitSource, ModelResources, no_fits
from workers.metrics import ESTIMATE
from workers.model.capability import Capability
from workers.model.loading import LoadedModel
from workers.vocabulary import Cell, CleanRun

_START_TOKENS = {"cpu": 1024}
_START_TOKENS_ELSEWHERE = 16384
"""Rows × tokens of the first forwards, by kind of device."""


class Engine:
    """Runs batches of jobs on one model, and keeps an activation cache of prompts between them.

    Args:
        model: which model.
        capture_budget_bytes: what captures may hold; pairs are taken in smaller chunks where the
            captures of all do not fit.
        max_rows: most rows of a forward; None lets measurements and memory decide.
        shortcut: whether rows that provably equal the clean base run are filled from it (tier
            ``unchanged``). Only ever done for models found causal.
        resume: whether jobs run from what they change first (tier ``resumed``), where the model can.
        share: forwards begin with, and never grow past, this share of the rows that they usually have.
        pace: sizes of forwards that `pace` of another engine found, on such a model and device.
        fits: gives the fit of an identity; what it raises becomes the error of the rows that need the fit.
        code: where the functions that cells name lie.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        capture_budget_bytes: int,
        max_rows: int | None = None,
        shortcut: bool = True,
        resume: bool = True,
        share: float = 1.0,
        pace: Mapping[str, int] | None = None,
        fits: FitSource = no_fits,
        code: Code = NO_CODE,
    ) -> None:
        tokens = int(share * _START_TOKENS.get(model.device.type, _START_TOKENS_ELSEWHERE))
        self._bench = Bench(
            model=model,
            stock=ModelResources(model, fits, code),
            captures=ActivationCache(model, budget_bytes=capture_budget_bytes),
            pacer=BatchSizer(start_tokens=tokens, max_rows=max_rows, known=pace),
            shortcut=shortcut and model.is_causal,
            resume=model.resume if resume else None,
            capture_tokens=tokens,
        )

    @property
    def model(self) -> LoadedModel:
        """Model that it runs."""
        return self._bench.model

    @property
    def capability(self) -> Capability:
        """Abilities of its model, and the memory that captures may take."""
        found = self._bench.model.capability
        return replace(found, captures_bytes=self._bench.captures.budget_bytes)

    def pace(self) -> dict[str, int]:
        """The sizes of forwards found so far, as plain numbers, for engines to come."""
        return self._bench.pacer.state()

    def run(
        self, batch: Batch, *, deadline_s: float | None = None, tile_cells: Sequence[Cell] = ()
    ) -> BatchResult:
        """Run the jobs of a batch, as far as the deadline allows.

        Args:
            batch: which jobs.
            deadline_s: when to stop, from now; the first whole cell is finished whatever it takes.
            tile_cells: all cells that calls with these prompts will have, so that each prompt is
                captured once for all of them.

        Returns:
            The rows of the cells that were finished. What fails is a row with an error.

        Raises:
            RunError: the pairs are not of one class, or there is nothing to run.
        """
        _check(batch)
        if ESTIMATE in batch.families:
            return Attribution(
                self._bench.model,
                self._bench.stock,
                batch,
                budget_bytes=self._bench.captures.budget_bytes,
                max_tokens=self._bench.capture_tokens,
            ).run()
        return Round(self._bench, batch, tile_cells).run(deadline_s)

    def clean(self, requests: Sequence[CleanRun]) -> dict[str, Column]:
        """Unintervened values: ``error`` and the columns of the family ``logits``, a row a request."""
        columns, _ = clean_runs(self._bench.model, requests, max_tokens=self._bench.capture_tokens)
        return columns


def _check(batch: Batch) -> None:
    if not batch.cells or not batch.pairs:
        raise RunError("a batch needs at least one cell and one pair")
    lengths = {tuple((run, len(tokens)) for run, tokens in sorted(p.tokens.items())) for p in batch.pairs}
    if len(lengths) > 1:
        raise RunError("the pairs of a batch must have equal runs of equal lengths: put others apart")
