"""One call of the engine: a batch captured, run in forwards of many jobs, and scored.

Shapes: B rows of a forward, T tokens, V vocabulary.
"""

__all__ = ["Bench", "Round"]

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from workers.change.edits import Edits
from workers.change.jobs import Change, Job
from workers.change.ready import ReadyCell, RunNumbers, ready_cell, resolve
from workers.change.regions import Region
from workers.change.stock import Stock
from workers.change.values import Taken
from workers.engine.attempts import FailureLog, attempt, is_out_of_memory
from workers.engine.batch import HOOKED, UNCHANGED, Batch, Outcome, Sheet
from workers.engine.captures import Captures, stacked
from workers.engine.needs import Needs, chunks_of
from workers.engine.pacing import Pacer
from workers.engine.prior import PriorRuns
from workers.engine.scorer import NON_FINITE, Scorer, is_finite
from workers.engine.shortcut import is_unchanged
from workers.errors import SwapyardError
from workers.model.hooks import Tap
from workers.model.loading import LoadedModel
from workers.vocabulary import Cell, Vectors

Alike = list[Job]
"""Jobs that have one result: one job, or all that leave a pair's base run as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What outlives a call: the model, its fits, captures of prompts, and the pace found so far."""

    model: LoadedModel
    stock: Stock
    captures: Captures
    pacer: Pacer
    shortcut: bool
    """Whether rows that provably change nothing are filled from the base's clean run."""
    capture_tokens: int
    """Rows × tokens of a clean run, at most."""


class Round:
    """The state of one call: rows are filled in as forwards return."""

    def __init__(self, bench: Bench, batch: Batch, tile_cells: Sequence[Cell]) -> None:
        self._bench = bench
        self._batch = batch
        self._sheet = Sheet.of(batch)
        self._needs = Needs(batch, bench.model, bench.stock, tile_cells, base_logits=bench.shortcut)
        self._scorer = Scorer(batch, bench.captures, bench.model.device)
        self._bases = stacked([pair.tokens["base"] for pair in batch.pairs], bench.model.device)
        self._run_numbers: RunNumbers = {}
        self._failed_prompts: Mapping[Any, Exception] = {}
        self._failures = FailureLog()
        self._num_forwards = 0
        self._capture_s = 0.0

    def run(self, deadline_s: float | None) -> Outcome:
        """Run as many whole cells, from the first, as the deadline allows, and at least one.

        Where the captures of all pairs do not fit, chunks of pairs run one after the other: the first
        gets its share of the time and so decides how many cells the others run too.
        """
        started, captured = time.perf_counter(), self._bench.captures.num_forwards
        num_cells = len(self._batch.cells)
        chunks = chunks_of(self._batch.pairs, self._needs, self._bench.captures)
        self._capture_s += time.perf_counter() - started
        until = None if deadline_s is None else started + deadline_s / len(chunks)
        for chunk in chunks:
            num_cells = self._run_chunk(chunk, num_cells, until)
            until = None
        columns = self._sheet.first(num_cells * len(self._batch.pairs))
        return Outcome(
            num_cells=num_cells,
            columns=columns,
            tiers=dict(Counter(columns["tier"].tolist())),
            num_failed=sum(error is not None for error in columns["error"]),
            num_forwards=self._num_forwards + self._bench.captures.num_forwards - captured,
            model_s=time.perf_counter() - started - self._capture_s,
            capture_s=self._capture_s,
        )

    def _run_chunk(self, chunk: Sequence[int], num_cells: int, until: float | None) -> int:
        """Run the first cells on some pairs; how many of them were finished before the time was up."""
        self._capture(chunk)
        unchanged: list[Job] = []
        jobs = self._hooked(chunk, num_cells, unchanged)
        length = self._bases.shape[1]
        finished = 0
        while jobs_now := list(islice(jobs, size := self._bench.pacer.rows(length))):
            began = time.perf_counter()
            self._attempt(self._forward, [[job] for job in jobs_now])
            now = time.perf_counter()
            if len(jobs_now) == size:
                self._bench.pacer.record(length, size, now - began)
            # Jobs come in order, so every cell before that of the last one is finished.
            finished = jobs_now[-1].row // len(self._batch.pairs)
            if until is not None and now > until and finished:
                break
        else:
            finished = num_cells
        self._fill(unchanged)
        return finished

    def _capture(self, chunk: Sequence[int]) -> None:
        began = time.perf_counter()
        needs = self._needs.of(self._batch.pairs[index] for index in chunk)
        self._failed_prompts = self._bench.captures.prepare(needs, max_tokens=self._bench.capture_tokens)
        self._capture_s += time.perf_counter() - began

    def _hooked(self, chunk: Sequence[int], num_cells: int, unchanged: list[Job]) -> Iterator[Job]:
        """The jobs that need a forward, in order; the others join `unchanged` or fail on the way."""
        for index, (_, cell) in enumerate(self._batch.cells[:num_cells]):
            first = index * len(self._batch.pairs)
            try:
                ready = ready_cell(cell, self._bench.model, self._bench.stock, self._run_numbers)
            except SwapyardError as fault:
                self._fail([first + pair for pair in chunk], fault)
                continue
            for pair in chunk:
                job = self._resolved(first + pair, pair, ready)
                if job is None:
                    continue
                if self._bench.shortcut and self._is_unchanged(job):
                    unchanged.append(job)
                else:
                    yield job

    def _resolved(self, row: int, pair: int, cell: ReadyCell) -> Job | None:
        """The job of a row, or None where it cannot run: then its row says why."""
        try:
            job = resolve(row, pair, cell, self._batch.pairs[pair])
        except SwapyardError as fault:
            self._fail([row], fault)
            return None
        error = self._obstacle(job)
        if error is not None:
            self._fail([row], error)
            return None
        return job

    def _obstacle(self, job: Job) -> Exception | None:
        """Why a value of a clean run that the job takes was not captured; None where all were."""
        changes = chain(job.changes, *(prior.changes for prior in job.priors))
        found = (self._lacking(change) for change in changes)
        return next((error for error in found if error is not None), None)

    def _lacking(self, change: Change) -> Exception | None:
        value, kept = change.value, change.step.kept
        if not isinstance(value, Taken) or kept is None:
            return None
        if value.run in self._failed_prompts:
            return self._failed_prompts[value.run]
        return self._bench.captures.broken.get(kept)

    def _is_unchanged(self, job: Job) -> bool:
        cell = self._batch.cells[job.row // len(self._batch.pairs)][1]
        pair = self._batch.pairs[job.pair]
        if pair.tokens["base"] in self._failed_prompts:
            return False
        return is_unchanged(job, cell, pair, self._bench.model.facts)

    def _attempt(self, work: Callable[[Sequence[Alike]], None], groups: Sequence[Alike]) -> None:
        """Do `work` for all; where it fails, for halves, so that one bad job spoils no other."""
        error = attempt(partial(work, groups))
        if error is None:
            return
        if is_out_of_memory(error):
            self._bench.pacer.shrink(self._bases.shape[1], len(groups))
        if len(groups) == 1:
            self._fail([job.row for job in groups[0]], error)
            return
        half = len(groups) // 2
        self._attempt(work, groups[:half])
        self._attempt(work, groups[half:])

    # Within one forward a rotation is computed once, however many units use it.
    @torch.inference_mode()
    @parametrize.cached()
    def _forward(self, groups: Sequence[Alike]) -> None:
        priors = PriorRuns(self._bench.model, self._bases, self._held)
        priors.run([job for group in groups for job in group])
        self._num_forwards += priors.num_forwards + 1
        groups = [group for group in groups if self._can_go_on(group, priors)]
        if not groups:
            return
        jobs = [job for group in groups for job in group]
        edits = Edits([job.changes for job in jobs], self._bases.shape[1], priors.held)
        device = self._bases.device
        bases = self._bases[torch.tensor([job.pair for job in jobs], device=device)]  # [B, T] or [B, T, E]
        reads = torch.tensor([[job.read] for job in jobs], device=device)  # [B, 1]
        logits, seen = self._bench.model.forward(bases, reads, edits.visits())
        self._put(logits[:, 0], groups, HOOKED)
        self._sheet.collect(jobs, edits)
        for row, error in edits.failures(seen).items():
            self._fail([jobs[row].row], error)

    def _can_go_on(self, group: Alike, priors: PriorRuns) -> bool:
        """Whether the runs that a group needs are there; otherwise its rows say why."""
        error = priors.failure(group[0])
        if error is not None:
            self._fail([job.row for job in group], error)
        return error is None

    def _held(self, run: Hashable, place: Tap | Region) -> Tensor:
        """What the clean run of a prompt holds: [T, W] at a tap."""
        assert isinstance(run, tuple | Vectors)
        return self._bench.captures[run].taps[place]

    def _fill(self, unchanged: Sequence[Job]) -> None:
        """Rows that change nothing: one score for all those of a pair that read the same token."""
        alike: dict[tuple[int, int, int | None], Alike] = {}
        for job in unchanged:
            alike.setdefault((job.pair, job.read, job.source_read), []).append(job)
        groups = list(alike.values())
        size = self._bench.pacer.rows(self._bases.shape[1])
        for start in range(0, len(groups), size):
            self._attempt(self._put_base, groups[start : start + size])

    @torch.inference_mode()
    def _put_base(self, groups: Sequence[Alike]) -> None:
        bases = [(self._batch.pairs[group[0].pair].tokens["base"], group[0].read) for group in groups]
        logits = torch.stack([self._bench.captures[prompt].logits[read] for prompt, read in bases])
        self._put(logits, groups, UNCHANGED)

    def _put(self, logits: Tensor, groups: Sequence[Alike], tier: str) -> None:
        """Fill in the rows of each group from its logits [R, V]."""
        columns = self._scorer.columns(logits, [group[0] for group in groups])
        numbers = torch.tensor([number for number, group in enumerate(groups) for _ in group])
        rows = [job.row for group in groups for job in group]
        self._sheet.put(rows, {name: column.cpu()[numbers] for name, column in columns.items()}, tier)
        for group, finite in zip(groups, is_finite(logits), strict=True):
            if not finite:
                for job in group:
                    self._sheet.fail(job.row, *NON_FINITE)

    def _fail(self, rows: Sequence[int], error: Exception) -> None:
        for row in rows:
            self._sheet.fail(row, type(error).__name__, str(error))
        if rows:
            cell, pair = divmod(rows[0], len(self._batch.pairs))
            self._failures.tell(self._batch.cells[cell][0], self._batch.pairs[pair].pair, error)
