"""Promise: whatever happens to a study in whatever order, its views show each job once, as it came out last.

Histories of parts, retries, merges, sweeps and take-overs are drawn at random and checked, after each step,
against a dictionary.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from histories import BOTH, History, shown

from orchestrator.plan.remaining import counts_of
from orchestrator.query.connection import connect
from orchestrator.stages.sweep.retries import retry_work
from orchestrator.stages.sweep.work import open_work
from workers.errors import HeldError

ERRORS = ("OutOfMemoryError", "ValueError")
NUM_STEPS = 14


@pytest.mark.parametrize("seed", range(3))
def test_views_show_just_what_was_done(tmp_path: Path, seed: int) -> None:
    drawn = Drawn(History.begin(tmp_path), random.Random(seed))
    history = drawn.history
    for _ in range(NUM_STEPS):
        step = drawn.draw_step()
        with reading(history, step in (drawn.merge, drawn.sweep)):
            step()
        assert history.seen() == history.expected(), step.__name__
        assert history.driver.state.live == history.store.state().live
        drawn.check_counts()
    history.driver.close()


@contextmanager
def reading(history: History, is_open: bool) -> Iterator[None]:
    """A reader that was open before a step that moves rows still sees them after it."""
    if not is_open:
        yield
        return
    with connect([history.store.root]) as reader:
        yield
        assert shown(reader) == history.expected()


class Drawn:
    """A history of random steps."""

    def __init__(self, history: History, draw: random.Random) -> None:
        self.history = history
        self._draw = draw

    def draw_step(self) -> Callable[[], None]:
        steps: list[Callable[[], None]] = [
            *[self.add] * 4,
            *[self.retry] * 3,
            *[self.merge] * 3,
            self.sweep,
            self.take_over,
            self.history.reopen,
        ]
        return self._draw.choice(steps)

    def add(self) -> None:
        """A part of what remains, of which some jobs fail."""
        work = open_work(self.history.plan, self.history.driver.state)
        if not work:
            return
        tile = self._draw.choice(work)
        lo, hi, families = self._draw.choice(tile.todo)
        k_lo = self._draw.randrange(lo, hi)
        k_hi = self._draw.randint(k_lo + 1, min(hi, k_lo + 6))
        if self._draw.random() < 0.3:
            families = (self._draw.choice(families),)
        jobs = range(k_lo * tile.num_pairs, k_hi * tile.num_pairs)
        self.history.add(tile.tile, k_lo, k_hi, families, self._failing(jobs, 0.3))

    def retry(self) -> None:
        """Some of what a retry of some types would run, of which some jobs fail again."""
        kinds = {value for job in self.history.model.values() for value in job.values()} & {*ERRORS}
        chosen = self._draw.sample(sorted(kinds), min(len(kinds), 1))
        work = retry_work(self.history.plan, self.history.driver.state, self.history.store, chosen)
        if not work:
            return
        one = self._draw.choice(work)
        assert one.replaces is not None
        jobs = [job for lo, hi in one.jobs for job in range(lo, hi)]
        jobs = self._draw.sample(jobs, self._draw.randint(1, len(jobs)))
        part = self.history.driver.state.live[one.replaces]
        self.history.retry(part, jobs, self._failing(jobs, 0.2))

    def merge(self) -> None:
        self.history.merge(self._draw.choice([1, 2, 4]))

    def sweep(self) -> None:
        """Within the grace nothing is cleared that somebody may be reading."""
        assert self.history.driver.collect_garbage().num_replaced == 0

    def take_over(self) -> None:
        """Another driver takes the study; what the old one wrote and did not commit is cleared."""
        old, history = self.history.driver, self.history
        merge = old.next_merge(1)
        made = history.store.merge(old.epoch, merge).file if merge is not None else None
        history.driver = history.store.open_driver(take_over=True)
        assert history.driver.collect_garbage().num_orphans == (made is not None)
        if made is not None:
            with pytest.raises(HeldError):
                old.commit_merged(made)
        old.close()

    def check_counts(self) -> None:
        """What is counted is what is to be seen."""
        history = self.history
        counts = counts_of(history.plan, history.driver.state)
        jobs = history.model.values()
        assert counts.num_done == sum(set(job) == {*BOTH} for job in jobs)
        failed = [sum(isinstance(job.get(family), str) for job in jobs) for family in BOTH]
        assert counts.num_failed == max(failed)
        assert [history.driver.state.num_failed[family] for family in BOTH] == failed

    def _failing(self, jobs: Iterable[int], share: float) -> dict[int, str]:
        """Which jobs fail. A job fails of one type alone: of two families' errors the views show either."""
        return {job: ERRORS[job % 2] for job in jobs if self._draw.random() < share}
