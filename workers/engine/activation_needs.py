"""Needs of a batch: activations of clean runs that its cells take, and the pairs whose cache fits at once."""

__all__ = ["BatchNeeds", "chunks_of"]

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache

from workers.engine.activation_cache import ActivationCache, Kept, PromptNeed
from workers.engine.batch import Batch
from workers.engine.replay.base_cache import BaseExtent
from workers.errors import ModelError, SwapyardError
from workers.intervene.compile import kept_at
from workers.intervene.jobs import located, read_of, source_read
from workers.intervene.model_resources import ModelResources
from workers.intervene.regions import Region
from workers.model.hooks import Tap
from workers.model.loading import LoadedModel
from workers.model.resume import Resume
from workers.vocabulary import Cell, Pair, Place, Position, Prompt, Span


class BatchNeeds:
    """Activations, logits and KV caches that a batch needs of each prompt.

    Args:
        batch: its cells say where values are taken and where logits are read.
        model: says which tensors hold the places.
        stock: has the functions that find what is no position.
        tile_cells: cells of calls to come, whose places are kept too.
        base_logits: whether the clean logits of the bases are needed for rows that change nothing.
        resume: how jobs begin in the middle of their bases' runs; None where they do not.
    """

    def __init__(
        self,
        batch: Batch,
        model: LoadedModel,
        stock: ModelResources,
        tile_cells: Sequence[Cell],
        *,
        base_logits: bool,
        resume: Resume | None = None,
    ) -> None:
        cells = [*tile_cells, *(cell for _, cell in batch.cells)]
        self._taps = _spans_by_run(_positions_by_run(cells, model, stock), batch.pairs)
        self._resume = resume
        self._token_bytes = model.facts.width * next(model.module.parameters()).element_size()
        self._block = None if resume is None else _first_block(cells, model, resume)
        self._positions = {unit.place.position for cell in cells for unit in cell.units}
        self._all_reads = {cell.read for cell in cells}
        self._reads = {cell.read for _, cell in batch.cells}
        self._base_logits = base_logits or "kl" in batch.families
        self._source_logits = "kl" in batch.families
        self.taps: Kept = frozenset().union(*(taps.items() for taps in self._taps.values()))
        """Places whose activations are cached of any run, and of which tokens."""

    def extent(self, pairs: Sequence[Pair]) -> BaseExtent | None:
        """Blocks and tokens that jobs on these pairs can touch; None where no job is resumed."""
        if self._block is None:
            return None
        reads = [(read,) for read in self._all_reads]
        firsts = [first for position in self._positions for first in _firsts(position, pairs)]
        read = [token for position in reads for token in _firsts(position, pairs)]
        length = len(pairs[0].tokens["base"])
        return BaseExtent(
            num_tokens=length,
            block=self._block,
            first=min([*firsts, *read], default=0),
            last=min(max(firsts, default=0), max(read, default=0)),
        )

    def of(self, pairs: Iterable[Pair], *, with_bases: bool = False) -> dict[Prompt, PromptNeed]:
        """Needs of these pairs' prompts; a prompt of several pairs or runs has all of theirs."""
        needs: dict[Prompt, PromptNeed] = {}
        for pair in pairs:
            if with_bases:
                needs.setdefault(pair.tokens["base"], PromptNeed()).is_base = True
            for run, taps in self._taps.items():
                if run in pair.tokens:
                    needs.setdefault(pair.tokens[run], PromptNeed()).add(taps)
            for prompt, token in self._reads_of(pair):
                needs.setdefault(prompt, PromptNeed()).reads.add(token)
        return needs

    def base_bytes(self, pairs: Sequence[Pair]) -> int:
        """Size of the KV cache of each base, for jobs that are resumed."""
        extent = self.extent(pairs)
        if extent is None or self._resume is None:
            return 0
        return extent.size_bytes(self._resume, self._token_bytes)

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


_Positions = dict[str, dict[Tap | Region, set[Position]]]
"""Positions whose values are taken, by run and place."""


def _positions_by_run(cells: Iterable[Cell], model: LoadedModel, stock: ModelResources) -> _Positions:
    """Positions to cache of each clean run; places that the model does not have fail with their jobs."""
    origins: dict[tuple[str, str, int | None, object], tuple[Place, set[Position]]] = {}
    for cell in cells:
        for unit in cell.every_unit():
            if (place := unit.origin) is not None:
                key = unit.run, place.site, place.layer, place.coordinates
                origins.setdefault(key, (place, set()))[1].add(place.position)
    found: _Positions = {}
    for (run, *_), (place, positions) in origins.items():
        try:
            kept = kept_at(replace(place, heads=None), model, stock)
        except SwapyardError:
            continue
        found.setdefault(run, {}).setdefault(kept, set()).update(positions)
    return found


def _spans_by_run(found: _Positions, pairs: Sequence[Pair]) -> dict[str, dict[Tap | Region, Span | None]]:
    """Tokens from the first to the last that any pair can read, by run and place; None for all."""

    @cache
    def ends(run: str, position: Position) -> list[int]:
        some = pairs if any(isinstance(item, str) for item in position) else pairs[:1]
        return [token for pair in some for token in _ends(position, pair, run)]

    def span(run: str, place: Tap | Region, positions: set[Position]) -> Span | None:
        tokens = [token for position in positions for token in ends(run, position)]
        if isinstance(place, Region) or not tokens:
            return None
        return min(tokens), max(tokens) + 1

    return {run: {at: span(run, at, some) for at, some in places.items()} for run, places in found.items()}


def _ends(position: Position, pair: Pair, run: str) -> list[int]:
    """The first and the last token of a position, where the pair has it."""
    try:
        tokens = located(position, pair, run)
    except SwapyardError:
        return []  # the jobs that take from there fail on their own
    return [min(tokens), max(tokens)] if tokens else []


def _first_block(cells: Iterable[Cell], model: LoadedModel, resume: Resume) -> int | None:
    """The first block that any cell can begin at; None where none can begin in the middle."""
    places = {
        (unit.place.site, unit.place.layer)
        for cell in cells
        for unit in cell.units
        if unit.place.coordinates is None
    }
    blocks = []
    for site, layer in places:
        try:
            tap = model.target(site, layer, None, None).tap
        except ModelError:
            continue
        if tap.module in resume.block_of:
            blocks.append(resume.block_of[tap.module])
    return min(blocks, default=None)


def _firsts(position: Position, pairs: Sequence[Pair]) -> Iterator[int]:
    """The first token of a position in each pair that has it."""
    for pair in pairs if any(isinstance(item, str) for item in position) else pairs[:1]:
        try:
            yield min(located(position, pair, "base"), default=0)
        except SwapyardError:
            continue  # the jobs that change this fail on their own


def chunks_of(pairs: Sequence[Pair], needs: BatchNeeds, captures: ActivationCache) -> list[list[int]]:
    """Indices of pairs, in groups whose captures fit the budget together (one pair at the least).

    The size of a capture is measured, not reckoned: the first pair is captured where no pair was yet.
    """
    size_bytes = captures.bytes_per_token(needs.taps, needs.of(pairs[:1]))
    base_bytes = needs.base_bytes(pairs)
    chunks: list[list[int]] = []
    prompts: set[Prompt] = set()
    bases: set[Prompt] = set()
    for index, pair in enumerate(pairs):
        prompts.update(pair.tokens.values())
        bases.add(pair.tokens["base"])
        held = size_bytes * sum(map(len, prompts)) + base_bytes * len(bases)
        if not chunks or held > captures.budget_bytes:
            chunks.append([])
            prompts, bases = set(pair.tokens.values()), {pair.tokens["base"]}
        chunks[-1].append(index)
    return chunks
