"""Attribution patching: estimates for a batch of cells from each pair's clean runs, without running any cell.

For each pair there is one forward and one backward of its base and one forward of each of its sources,
whatever the number of cells, as long as what the cells' places hold fits the budget.
"""

__all__ = ["Attribution"]

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from workers.engine.activation_cache import stacked
from workers.engine.attempts import FailureLog, attempt, tried
from workers.engine.batch import ESTIMATED, Batch, BatchResult, Sheet
from workers.engine.estimates import BaselineRun, Estimator, trace, widths
from workers.engine.scoring import NON_FINITE, Labels
from workers.errors import RunError, SwapyardError
from workers.intervene.compile import CompiledCell, compile_cell
from workers.intervene.jobs import read_of
from workers.intervene.model_resources import ModelResources
from workers.model.hooks import Tap
from workers.model.layout import Target
from workers.model.loading import LoadedModel
from workers.vocabulary import why_exact

_GRAPH = 4
"""A forward that is differentiated holds all that it reckons: it takes this part of the usual tokens."""
_COPIES = 5
"""Tensors of a tap held at once: values, what was added to them, their sum, gradients, a source's values."""

_Taps = Mapping[str, frozenset[Tap]]
"""Taps that cells read in each clean run."""


class Attribution:
    """Estimates of one batch's cells on all of its pairs.

    Args:
        model: which model.
        stock: its fits.
        batch: cells of units that can be estimated; any other cell fails.
        budget_bytes: what values and gradients may hold; one pair and one cell are held even beyond it.
        max_tokens: rows × tokens of a clean run, at most.
    """

    def __init__(
        self, model: LoadedModel, stock: ModelResources, batch: Batch, *, budget_bytes: int, max_tokens: int
    ) -> None:
        self._model = model
        self._stock = stock
        self._batch = batch
        self._budget_bytes = budget_bytes
        self._sheet = Sheet.of(batch)
        self._failures = FailureLog()
        self._num_tokens = len(batch.pairs[0].tokens["base"])
        self._most_rows = max(1, max_tokens // _GRAPH // max(1, self._num_tokens))
        self._num_forwards = 0
        self._capture_s = 0.0

    def run(self) -> BatchResult:
        """Estimate every cell on every pair; what fails is a row with an error."""
        started = time.perf_counter()
        self._sheet.columns["tier"][:] = ESTIMATED
        for cells in self._windows(self._groups):
            self._run_window(cells)
        num_rows = len(self._batch.cells) * len(self._batch.pairs)
        columns = self._sheet.first(num_rows)
        return BatchResult(
            num_cells=len(self._batch.cells),
            columns=columns,
            tiers={ESTIMATED: num_rows},
            num_failed=sum(error is not None for error in columns["error"]),
            num_forwards=self._num_forwards,
            model_s=time.perf_counter() - started - self._capture_s,
            capture_s=self._capture_s,
        )

    @cached_property
    def _groups(self) -> Sequence[Mapping[int, CompiledCell]]:
        """The cells by their place in the batch, those that are read at one token together."""
        found: dict[int | str, dict[int, CompiledCell]] = {}
        for index, (_, cell) in enumerate(self._batch.cells):
            try:
                if (why := why_exact(cell)) is not None:
                    raise RunError(f"{why} cannot be estimated; run the cell")
                ready = compile_cell(cell, self._model, self._stock, {})
            except SwapyardError as error:
                self._fail(index, range(len(self._batch.pairs)), error)
            else:
                found.setdefault(cell.read, {})[index] = ready
        return list(found.values())

    def _windows(self, groups: Sequence[Mapping[int, CompiledCell]]) -> Iterator[dict[int, CompiledCell]]:
        """Cells in order, so many at once that what their places hold of one pair fits the budget."""
        for group in groups:
            window: dict[int, CompiledCell] = {}
            held: frozenset[Tap] = frozenset()
            for index, cell in group.items():
                more = held.union(*_taps([cell]).values())
                if window and self._bytes(more) > self._budget_bytes:
                    yield window
                    window, more = {}, frozenset().union(*_taps([cell]).values())
                window[index] = cell
                held = more
            yield window

    def _bytes(self, taps: Collection[Tap]) -> int:
        """Memory of values and gradients at these taps for one pair."""
        longest = max(len(prompt) for prompt in self._batch.pairs[0].tokens.values())
        return 4 * _COPIES * longest * sum(self._widths.get(tap, 0) for tap in taps)

    @cached_property
    def _widths(self) -> Mapping[Tap, int]:
        """Width of each tap: seen in a run of the first base that does run."""
        found: dict[Tap, int] = {}
        units = [unit for group in self._groups for cell in group.values() for unit in cell.units]
        taps = {unit.step.place.tap for unit in units}
        for pair in self._batch.pairs:
            prompt = stacked([pair.tokens["base"]], self._model.device)
            self._num_forwards += 1
            if attempt(partial(lambda one: found.update(widths(self._model, one, taps)), prompt)) is None:
                break
        return found

    def _run_window(self, cells: Mapping[int, CompiledCell]) -> None:
        taps = _taps(cells.values())
        fitting = self._budget_bytes // max(1, self._bytes(frozenset().union(*taps.values())))
        start = 0
        while start < len(self._batch.pairs):
            size = max(1, min(self._most_rows, fitting))
            pairs = range(len(self._batch.pairs))[start : start + size]
            tried(partial(self._estimate, cells, taps), pairs, partial(self._give_up, cells), self._shrink)
            start += size

    def _give_up(self, cells: Iterable[int], pair: int, error: Exception) -> None:
        for index in cells:
            self._fail(index, [pair], error)

    def _shrink(self, num_pairs: int) -> None:
        self._most_rows = max(1, num_pairs // 2)

    def _estimate(self, cells: Mapping[int, CompiledCell], taps: _Taps, pairs: Sequence[int]) -> None:
        began = time.perf_counter()
        runs = self._clean_runs(next(iter(cells.values())).read, taps, pairs)
        self._capture_s += time.perf_counter() - began
        answers = runs["base"].trace.answers
        assert answers is not None
        with torch.inference_mode(), parametrize.cached():
            estimator = Estimator([self._batch.pairs[pair] for pair in pairs], runs)
            found = {index: self._of_cell(estimator, index, cell, pairs) for index, cell in cells.items()}
            rows = {index: estimates for index, estimates in found.items() if estimates is not None}
            if rows:
                self._put(list(rows), pairs, torch.stack(list(rows.values())), answers)

    def _of_cell(
        self, estimator: Estimator, index: int, cell: CompiledCell, pairs: Sequence[int]
    ) -> Tensor | None:
        """The estimates [B] of a cell; None where there are none, and its rows say why."""
        try:
            estimates, failed = estimator.estimate(cell)
        except SwapyardError as error:
            self._fail(index, pairs, error)
            return None
        for number, why in failed.items():
            self._fail(index, [pairs[number]], why)
        return estimates

    def _put(self, cells: Sequence[int], pairs: Sequence[int], estimates: Tensor, answers: Tensor) -> None:
        """Fill in the estimates [cells, pairs] of pairs with these answers [pairs]."""
        table = estimates.masked_fill(answers.isnan(), torch.nan).float().cpu().numpy()
        is_bad = (~estimates.isfinite() | answers.isinf()).cpu().numpy() & ~answers.isnan().cpu().numpy()
        rows = np.array(cells)[:, None] * len(self._batch.pairs) + np.array(pairs)
        has_failed = np.array(
            [[error is not None for error in self._sheet.columns["error"][row]] for row in rows]
        )
        self._sheet.columns["estimate"][rows] = np.where(has_failed, np.nan, table)
        for row in rows[is_bad & ~has_failed]:
            self._sheet.fail(int(row), *NON_FINITE)

    def _clean_runs(self, read: int | str, taps: _Taps, pairs: Sequence[int]) -> dict[str, BaselineRun]:
        """The clean runs of these pairs: of the bases with gradients, of sources once for each prompt.

        Raises:
            SwapyardError: a pair has no such token to be read.
        """
        device = self._model.device
        chosen = [self._batch.pairs[pair] for pair in pairs]
        base = trace(
            self._model,
            stacked([pair.tokens["base"] for pair in chosen], device),
            taps["base"],
            reads=torch.tensor([[read_of(read, pair)] for pair in chosen], device=device),
            labels=(
                Labels.of([pair.label_ids for pair in chosen], device),
                Labels.of([pair.base_label_ids for pair in chosen], device),
            ),
        )
        self._num_forwards += 1
        runs = {"base": BaselineRun(base, range(len(chosen)))}
        for run in taps.keys() - {"base"}:
            if all(run in pair.tokens for pair in chosen):
                prompts = list(dict.fromkeys(pair.tokens[run] for pair in chosen))
                rows = {prompt: row for row, prompt in enumerate(prompts)}
                found = trace(self._model, stacked(prompts, device), taps[run])
                runs[run] = BaselineRun(found, [rows[pair.tokens[run]] for pair in chosen])
                self._num_forwards += 1
        return runs

    def _fail(self, index: int, pairs: Sequence[int], error: Exception) -> None:
        """Make failures of a cell's rows."""
        for pair in pairs:
            self._sheet.fail(index * len(self._batch.pairs) + pair, type(error).__name__, str(error))
        if pairs:
            number = self._batch.pairs[pairs[0]].pair
            self._failures.tell(self._batch.cells[index][0], number, error)


def _taps(cells: Iterable[CompiledCell]) -> _Taps:
    """Taps that these cells read in each clean run."""
    found: dict[str, set[Tap]] = {"base": set()}
    for cell in cells:
        for unit in cell.units:
            for run, target in (("base", unit.step.place), (unit.unit.run, unit.step.origin)):
                if isinstance(target, Target):
                    found.setdefault(run, set()).add(target.tap)
    return {run: frozenset(taps) for run, taps in found.items()}
