"""What a batch needs of the clean runs of its prompts, and how many pairs' captures fit at once."""

__all__ = ["Needs", "chunks_of"]

from collections.abc import Iterable, Sequence
from dataclasses import replace

from workers.change.jobs import read_of, source_read
from workers.change.ready import kept_at
from workers.change.regions import Region
from workers.change.stock import Stock
from workers.engine.batch import Batch
from workers.engine.captures import Captures, Need
from workers.errors import SwapyardError
from workers.model.hooks import Tap
from workers.model.loading import LoadedModel
from workers.vocabulary import Cell, Pair, Prompt


class Needs:
    """What the batch needs of each prompt.

    Args:
        batch: its cells say where values are taken and where logits are read.
        model: says which tensors hold the places.
        stock: has the functions that find what is no position.
        tile_cells: cells of calls to come, whose places are kept too.
        base_logits: whether the clean logits of the bases are needed for rows that change nothing.
    """

    def __init__(
        self,
        batch: Batch,
        model: LoadedModel,
        stock: Stock,
        tile_cells: Sequence[Cell],
        *,
        base_logits: bool,
    ) -> None:
        self._taps = _taps_by_run([*tile_cells, *(cell for _, cell in batch.cells)], model, stock)
        self._reads = {cell.read for _, cell in batch.cells}
        self._base_logits = base_logits or "kl" in batch.families
        self._source_logits = "kl" in batch.families
        self.taps: frozenset[Tap | Region] = frozenset().union(*self._taps.values())
        """All that is kept of any run."""

    def of(self, pairs: Iterable[Pair]) -> dict[Prompt, Need]:
        """The needs of these pairs' prompts; a prompt of several pairs or runs has all of theirs."""
        needs: dict[Prompt, Need] = {}
        for pair in pairs:
            for run, taps in self._taps.items():
                if run in pair.tokens:
                    needs.setdefault(pair.tokens[run], Need()).taps.update(taps)
            for prompt, token in self._reads_of(pair):
                needs.setdefault(prompt, Need()).reads.add(token)
        return needs

    def _reads_of(self, pair: Pair) -> Iterable[tuple[Prompt, int]]:
        for read in self._reads:
            try:
                base_token = read_of(read, pair)
            except SwapyardError:
                continue  # the jobs that read there fail on their own
            if self._base_logits:
                yield pair.tokens["base"], base_token
            source_token = source_read(read, pair)
            if self._source_logits and source_token is not None:
                yield pair.tokens["source"], source_token


def _taps_by_run(
    cells: Iterable[Cell], model: LoadedModel, stock: Stock
) -> dict[str, frozenset[Tap | Region]]:
    """The taps to keep of each clean run; places that the model does not have fail with their jobs."""
    origins = {
        (unit.run, replace(unit.origin, heads=None, position=()))
        for cell in cells
        for unit in cell.every_unit()
        if unit.origin is not None
    }
    taps: dict[str, set[Tap | Region]] = {}
    for run, place in origins:
        try:
            kept = kept_at(place, model, stock)
        except SwapyardError:
            continue
        taps.setdefault(run, set()).add(kept)
    return {run: frozenset(found) for run, found in taps.items()}


def chunks_of(pairs: Sequence[Pair], needs: Needs, captures: Captures) -> list[list[int]]:
    """Indices of pairs, in groups whose captures fit the budget together (one pair at the least).

    The size of a capture is measured, not reckoned: the first pair is captured where no pair was yet.
    """
    size_bytes = captures.bytes_per_token(needs.taps, needs.of(pairs[:1]))
    budget_tokens = captures.budget_bytes / size_bytes if size_bytes else float("inf")
    chunks: list[list[int]] = []
    prompts: set[Prompt] = set()
    for index, pair in enumerate(pairs):
        prompts.update(pair.tokens.values())
        if not chunks or sum(map(len, prompts)) > budget_tokens:
            chunks.append([])
            prompts = set(pair.tokens.values())
        chunks[-1].append(index)
    return chunks
