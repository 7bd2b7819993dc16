"""Intervened runs that jobs take values from: run before the jobs' own forward, and cached for it.

They are rows of forwards like any others: at most as many as there are jobs, at each level. A run that takes
values from another is a level above it.

Shapes: B rows, P pairs of a batch, T tokens, W width.
"""

__all__ = ["IntervenedRuns"]

from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor

from workers.errors import SwapyardError
from workers.intervene.edits import Edits
from workers.intervene.jobs import Change, Job, PriorRun, RunKey
from workers.intervene.regions import Region, joined, keeper, tap_of
from workers.intervene.values import ActivationLookup, CachedActivation, FromRun
from workers.model.hooks import Tap
from workers.model.loading import LoadedModel


class IntervenedRuns:
    """Named intervened runs of some jobs.

    Args:
        model: what runs.
        bases: the bases of the batch's pairs, ids [P, T] or vectors [P, T, E].
        clean: looks up the cached activations of clean runs.
    """

    def __init__(self, model: LoadedModel, bases: Tensor, clean: ActivationLookup) -> None:
        self._model = model
        self._bases = bases
        self._clean = clean
        self._kept: dict[RunKey, dict[Tap | Region, Tensor]] = {}
        self._failed: dict[RunKey, SwapyardError] = {}
        self.num_forwards = 0

    def run(self, jobs: Sequence[Job]) -> None:
        """Run what the jobs take values from, each run once."""
        wanted = _wanted(jobs)
        for level in range(max((len(job.priors) for job in jobs), default=0)):
            priors = {job.priors[level].key: job.priors[level] for job in jobs if len(job.priors) > level}
            ready = [prior for prior in priors.values() if not self._has_failed(prior)]
            if ready:
                self._forward(ready, wanted)

    def held(self, run: Hashable, place: Tap | Region) -> CachedActivation:
        """Cached activation of a named run, or of the clean run of a prompt, at a place."""
        if not isinstance(run, RunKey):
            return self._clean(run, place)
        return CachedActivation(self._kept[run][place])

    def failure(self, job: Job) -> SwapyardError | None:
        """Error of a run that the job needs; None where none failed."""
        return next((self._failed[p.key] for p in job.priors if p.key in self._failed), None)

    def _has_failed(self, prior: PriorRun) -> bool:
        """Whether a run failed that this one takes values from, and this one with it."""
        error = next((self._failed[key] for key, _ in _taken(prior.changes) if key in self._failed), None)
        if error is not None:
            self._failed[prior.key] = error
        return error is not None

    def _forward(self, priors: Sequence[PriorRun], wanted: dict[RunKey, set[Tap | Region]]) -> None:
        self.num_forwards += 1
        device = self._bases.device
        bases = self._bases[torch.tensor([prior.key.pair for prior in priors], device=device)]
        edits = Edits([prior.changes for prior in priors], bases.shape[1], self.held)
        taps = sorted(set().union(*(wanted.get(prior.key, set()) for prior in priors)), key=str)
        kept: dict[Tap | Region, list[Tensor]] = {}
        keepers = [(tap_of(place), keeper(kept, place, *bases.shape[:2])) for place in taps]
        reads = torch.zeros((len(priors), 1), dtype=torch.long, device=device)
        # A keeper of a place comes after the edits there.
        _, seen = self._model.forward(bases, reads, [*edits.visits(), *keepers])
        for row, error in edits.failures(seen).items():
            self._failed[priors[row].key] = error
        faults = seen.faults()
        whole = {tap: joined(parts) for tap, parts in kept.items()}
        for row, prior in enumerate(priors):
            mine = wanted.get(prior.key, set())
            self._kept[prior.key] = {tap: whole[tap][row] for tap in mine & whole.keys()}
            for tap in {tap_of(place) for place in mine} & faults.keys():
                self._failed.setdefault(prior.key, faults[tap])


def _wanted(jobs: Iterable[Job]) -> dict[RunKey, set[Tap | Region]]:
    """Places that are read of each named run."""
    wanted: dict[RunKey, set[Tap | Region]] = {}
    for job in jobs:
        for changes in (job.changes, *(prior.changes for prior in job.priors)):
            for key, tap in _taken(changes):
                wanted.setdefault(key, set()).add(tap)
    return wanted


def _taken(changes: Iterable[Change]) -> Iterable[tuple[RunKey, Tap | Region]]:
    """The named runs that changes take values from, and where."""
    for change in changes:
        if isinstance(change.value, FromRun) and isinstance(change.value.run, RunKey):
            assert change.step.kept is not None
            yield change.value.run, change.step.kept
