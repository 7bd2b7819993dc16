"""Round of the engine: a batch's clean runs cached, its jobs run in packed forwards, their rows scored.

Shapes: B rows of a forward, T tokens, V vocabulary.
"""

__all__ = ["Bench", "Round"]

import logging
import time
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from workers.engine.activation_cache import ActivationCache, stacked
from workers.engine.activation_needs import BatchNeeds, chunks_of
from workers.engine.attempts import FailureLog, tried
from workers.engine.batch import HOOKED, RERUN, RESUMED, UNCHANGED, Batch, BatchResult, Sheet
from workers.engine.batch_size import BatchSizer
from workers.engine.intervened_runs import IntervenedRuns
from workers.engine.queues import Pack, QueuedJob, Queues, first_block, first_token, moved
from workers.engine.scoring import NON_FINITE, JobScorer, is_finite, to_host
from workers.engine.unchanged import RowGroup, UnchangedRows, is_unchanged
from workers.errors import SwapyardError
from workers.intervene.compile import CompiledCell, RunNumbers, compile_cell, resolve
from workers.intervene.edits import Edits
from workers.intervene.jobs import Change, Job
from workers.intervene.model_resources import ModelResources
from workers.intervene.regions import Region
from workers.intervene.values import CachedActivation, FromRun
from workers.model.hooks import Tap
from workers.model.loading import LoadedModel
from workers.model.resume import Resume, num_rows_at
from workers.vocabulary import Cell, Vectors

_logger = logging.getLogger("swapyard.engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Model, resources, activation cache and batch sizes of an engine, which outlive a call."""

    model: LoadedModel
    stock: ModelResources
    captures: ActivationCache
    pacer: BatchSizer
    shortcut: bool
    """Whether rows that provably change nothing are filled from the base's clean run."""
    resume: Resume | None
    """Resumed forward of the model; None where all jobs run whole."""
    capture_tokens: int
    """Rows × tokens of a clean run, at most."""


class Round:
    """State of one call: rows are filled in as forwards return."""

    def __init__(self, bench: Bench, batch: Batch, tile_cells: Sequence[Cell]) -> None:
        self._bench = bench
        self._batch = batch
        self._sheet = Sheet.of(batch)
        self._needs = BatchNeeds(
            batch, bench.model, bench.stock, tile_cells, base_logits=bench.shortcut, resume=bench.resume
        )
        self._scorer = JobScorer(batch, bench.captures, bench.model.device)
        self._bases = stacked([pair.tokens["base"] for pair in batch.pairs], bench.model.device)
        self._run_numbers: RunNumbers = {}
        self._failed_prompts: Mapping[Any, Exception] = {}
        self._failures = FailureLog()
        self._num_forwards = 0
        self._capture_s = 0.0

    def run(self, deadline_s: float | None) -> BatchResult:
        """Run as many whole cells, from the first, as the deadline allows, and at least one.

        Captures come first and do not count. Where those of all pairs do not fit, chunks of pairs run one
        after the other: the first gets its share of the time and decides how many cells the others run.
        """
        started, captured = time.perf_counter(), self._bench.captures.num_forwards
        num_cells = len(self._batch.cells)
        chunks = chunks_of(self._batch.pairs, self._needs, self._bench.captures)
        self._capture_s += time.perf_counter() - started
        share_s = None if deadline_s is None else deadline_s / len(chunks)
        for chunk in chunks:
            num_cells = self._run_chunk(chunk, num_cells, share_s)
            share_s = None
        columns = self._sheet.first(num_cells * len(self._batch.pairs))
        return BatchResult(
            num_cells=num_cells,
            columns=columns,
            tiers=dict(Counter(columns["tier"].tolist())),
            num_failed=sum(error is not None for error in columns["error"]),
            num_forwards=self._num_forwards + self._bench.captures.num_forwards - captured,
            model_s=time.perf_counter() - started - self._capture_s,
            capture_s=self._capture_s,
        )

    def _run_chunk(self, chunk: Sequence[int], num_cells: int, deadline_s: float | None) -> int:
        """Run the first cells on some pairs; how many of them were finished before the time was up."""
        self._capture(chunk)
        queues = Queues(self._bench.pacer, self._bases.shape[1], self._bench.resume)
        unchanged = UnchangedRows(self._batch.pairs, self._bench.model.facts)
        began, finished, done = time.perf_counter(), 0, 0.0
        for index in range(num_cells):
            self._queue(index, chunk, queues, unchanged)
            finished = index + 1
            done += sum(self._run_pack(pack, queues) for pack in queues.full())
            now = time.perf_counter()
            # What waits has to be run before the call ends.
            waiting_s = queues.cost * (now - began) / done if done else 0.0
            if deadline_s is not None and now + waiting_s > began + deadline_s:
                break
        for pack in queues.rest():
            self._run_pack(pack, queues)
        self._fill(unchanged)
        return finished

    def _capture(self, chunk: Sequence[int]) -> None:
        began = time.perf_counter()
        pairs = [self._batch.pairs[index] for index in chunk]
        extent = self._needs.extent(pairs)
        self._failed_prompts = self._bench.captures.prepare(
            self._needs.of(pairs, with_bases=extent is not None),
            max_tokens=self._bench.capture_tokens,
            extent=extent,
        )
        self._capture_s += time.perf_counter() - began

    def _queue(self, index: int, chunk: Sequence[int], queues: Queues, unchanged: UnchangedRows) -> None:
        """Let the jobs of a cell wait for a forward; the others join `unchanged` or fail on the way."""
        cell, resume = self._batch.cells[index][1], self._bench.resume
        rows = index * len(self._batch.pairs)
        try:
            ready = compile_cell(cell, self._bench.model, self._bench.stock, self._run_numbers)
        except SwapyardError as fault:
            self._fail([rows + pair for pair in chunk], fault)
            return
        if self._bench.shortcut and not self._failed_prompts and not self._bench.captures.broken:
            chunk = unchanged.take(cell, rows, chunk)
        ready = ready if resume is None else moved(ready, resume)
        block = None if resume is None else first_block(ready, resume)
        for pair in chunk:
            job = self._resolved(rows + pair, pair, ready)
            if job is None:
                continue
            if self._bench.shortcut and self._is_unchanged(job):
                unchanged.add(job)
            else:
                queues.add(job, block if self._has_base(pair) else None, first_token(job))

    def _has_base(self, pair: int) -> bool:
        """Whether what resumed jobs need of the pair's base is there."""
        base_cache = self._bench.captures.base_cache
        return base_cache is not None and base_cache.holds(self._batch.pairs[pair].tokens["base"])

    def _resolved(self, row: int, pair: int, cell: CompiledCell) -> Job | None:
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
        """Error by which a clean run that the job takes values from was not cached; None where all were."""
        changes = chain(job.changes, *(prior.changes for prior in job.priors))
        found = (self._lacking(change) for change in changes)
        return next((error for error in found if error is not None), None)

    def _lacking(self, change: Change) -> Exception | None:
        value, kept = change.value, change.step.kept
        if not isinstance(value, FromRun) or kept is None:
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

    def _run_pack(self, pack: Pack, queues: Queues) -> float:
        """One forward, or several smaller ones; what it cost, in the units of the queues."""
        began, kind = time.perf_counter(), pack.kind
        num_tokens = queues.num_tokens - kind.first
        cost = sum(waiting.cost for waiting in pack.jobs)

        def give_up(waiting: QueuedJob, error: Exception) -> None:
            if kind.is_resumed:
                _logger.info("a resumed run failed and is run whole: %s", error)
                queues.again(waiting)
            else:
                self._fail([waiting.job.row], error)

        def shrink(num_rows: int) -> None:
            self._bench.pacer.shrink(num_tokens, num_rows, resumed=kind.is_resumed)

        work = partial(self._resumed, kind.first, queues) if kind.is_resumed else self._forward
        if tried(work, pack.jobs, give_up, shrink) and pack.is_full:
            elapsed_s = time.perf_counter() - began
            self._bench.pacer.record(
                num_tokens, len(pack.jobs), elapsed_s, resumed=kind.is_resumed, work=cost
            )
        return cost

    def _with_priors(self, waiting: Sequence[QueuedJob]) -> tuple[list[QueuedJob], IntervenedRuns]:
        """Run the named runs; the jobs that have theirs now, while the rows of the others say why not."""
        priors = IntervenedRuns(self._bench.model, self._bases, self._held)
        priors.run([one.job for one in waiting])
        self._num_forwards += priors.num_forwards
        return [one for one in waiting if self._can_go_on(one.job, priors)], priors

    # Within one forward a rotation is computed once, however many units use it.
    @torch.inference_mode()
    @parametrize.cached()
    def _forward(self, waiting: Sequence[QueuedJob]) -> None:
        waiting, priors = self._with_priors(waiting)
        if not waiting:
            return
        self._num_forwards += 1
        jobs = [one.job for one in waiting]
        edits = Edits([job.changes for job in jobs], self._bases.shape[1], priors.held)
        device = self._bases.device
        bases = self._bases[torch.tensor([job.pair for job in jobs], device=device)]  # [B, T] or [B, T, E]
        reads = torch.tensor([[job.read] for job in jobs], device=device)  # [B, 1]
        logits, seen = self._bench.model.forward(bases, reads, edits.visits(), ids=self._scorer.ids)
        for tier, is_rerun in ((HOOKED, False), (RERUN, True)):
            rows = [row for row, one in enumerate(waiting) if one.is_rerun == is_rerun]
            if rows:
                made = logits[:, 0] if len(rows) == len(jobs) else logits[rows, 0]
                self._put(made, [RowGroup.only(jobs[row]) for row in rows], tier)
        self._sheet.collect(jobs, edits)
        for row, error in edits.failures(seen).items():
            self._fail([jobs[row].row], error)

    @torch.inference_mode()
    @parametrize.cached()
    def _resumed(self, first: int, queues: Queues, waiting: Sequence[QueuedJob]) -> None:
        from workers.engine.replay.forward import Suffix, run
        from workers.engine.single_token import run_single_tokens

        waiting, priors = self._with_priors(waiting)
        if not waiting:
            return
        base_cache, resume, device = self._bench.captures.base_cache, self._bench.resume, self._bases.device
        assert base_cache is not None and resume is not None
        slots = base_cache.slots([self._batch.pairs[one.job.pair].tokens["base"] for one in waiting], device)
        ahead = run_single_tokens(self._bench.model, resume, base_cache, slots, waiting, first, priors.held)
        waiting = [waiting[row] for row in ahead.order]
        jobs = [one.job for one in waiting]
        self._num_forwards += 1 + ahead.num_forwards
        edits = Edits(
            ahead.changes,
            self._bases.shape[1],
            priors.held,
            first=first,
            num_rows=partial(num_rows_at, resume, ahead.starts),
        )
        rows = Suffix(
            bases=base_cache,
            slots=slots[ahead.order],
            starts=ahead.starts,
            first=first,
            reads=torch.tensor([[job.read] for job in jobs], device=device),  # [n, 1]
            given=ahead.given,
        )
        logits, seen = run(self._bench.model, resume, rows, edits.visits(), ids=self._scorer.ids)
        failed = edits.failures(seen).keys() | ahead.failed
        for row in sorted(failed):
            queues.again(waiting[row])
        good = [row for row in range(len(jobs)) if row not in failed]
        if good:
            groups = [RowGroup.only(jobs[row]) for row in good]
            self._put(logits[good, 0] if failed else logits[:, 0], groups, RESUMED)
            self._sheet.collect(jobs, edits)

    def _can_go_on(self, job: Job, priors: IntervenedRuns) -> bool:
        """Whether the runs that a job needs are there; otherwise its row says why."""
        error = priors.failure(job)
        if error is not None:
            self._fail([job.row], error)
        return error is None

    def _held(self, run: Hashable, place: Tap | Region) -> CachedActivation:
        """Cached activation of the clean run of a prompt."""
        assert isinstance(run, tuple | Vectors)
        return self._bench.captures[run].kept(place)

    def _fill(self, unchanged: UnchangedRows) -> None:
        """Rows that change nothing: one score for all those of a pair that read the same token."""
        groups = unchanged.alike()
        size = self._bench.pacer.rows(self._bases.shape[1])
        for start in range(0, len(groups), size):
            tried(self._put_base, groups[start : start + size], self._fail_alike)

    @torch.inference_mode()
    def _put_base(self, groups: Sequence[RowGroup]) -> None:
        jobs = [group.job for group in groups]
        bases = [(self._batch.pairs[job.pair].tokens["base"], job.read) for job in jobs]
        logits = torch.stack([self._bench.captures[prompt].logits[read] for prompt, read in bases])
        logits = logits if self._scorer.ids is None else logits[:, self._scorer.ids]
        self._put(logits, groups, UNCHANGED)

    def _fail_alike(self, group: RowGroup, error: Exception) -> None:
        self._fail(group.rows.tolist(), error)

    def _put(self, logits: Tensor, groups: Sequence[RowGroup], tier: str) -> None:
        """Fill in the rows of each group from its logits [R, V], or [R, K]."""
        columns = to_host(self._scorer.columns(logits, [group.job for group in groups]))
        which = np.repeat(np.arange(len(groups)), [len(group.rows) for group in groups])
        rows = np.concatenate([group.rows for group in groups])
        self._sheet.put(rows, {name: column.numpy()[which] for name, column in columns.items()}, tier)
        for group, finite in zip(groups, is_finite(logits), strict=True):
            if not finite:
                for row in group.rows.tolist():
                    self._sheet.fail(row, *NON_FINITE)

    def _fail(self, rows: Sequence[int], error: Exception) -> None:
        for row in rows:
            self._sheet.fail(row, type(error).__name__, str(error))
        if rows:
            cell, pair = divmod(rows[0], len(self._batch.pairs))
            self._failures.tell(self._batch.cells[cell][0], self._batch.pairs[pair].pair, error)
