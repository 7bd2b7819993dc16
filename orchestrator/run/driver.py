"""One driver runs one study: plan, hand out slices, commit what comes back, until nothing is left."""

__all__ = ["Outcome", "run_study"]

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from orchestrator.loading import Engines
from orchestrator.machine import num_cores
from orchestrator.plan.clean import CachedScorer, ChildScorer, EngineScorer, Scorer, kept_runs
from orchestrator.plan.planner import Planner
from orchestrator.plan.tables import Plan, encode_plan, read_plan
from orchestrator.remaining import Counts, counts_of, open_work
from orchestrator.run.executors import Died, Event, Executor, Failed, Finished
from orchestrator.run.progress import Progress
from orchestrator.run.rates import remember_rate
from orchestrator.run.schedule import Schedule
from orchestrator.run.setup import RunOptions, Setup, set_up
from orchestrator.store import Driver, Manifest, PlanRef, State, StudyStore
from studies import Study
from workers.errors import RunError, StoreError

MAX_FAILED_CALLS = 3
"""Calls in a row that may raise before the run ends; jobs that fail are rows and do not count."""
MAX_DEATHS = 3
"""Workers that are replaced before the run ends, for each worker that it began with."""
POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended."""

    root: Path
    counts: Counts
    num_ran: int
    """Jobs that this run did itself."""
    seconds: float
    interrupted: bool


@dataclass(slots=True)
class _Stop:
    """Whether somebody asked to stop: then nothing more is handed out, what runs is committed."""

    asked: bool = False
    can_drain: bool = False
    """Before any job runs there is nothing to finish: a Ctrl-C ends everything at once."""


def run_study(study: Study, root: Path, options: RunOptions, progress: Progress) -> Outcome:
    """Run `study` in the folder `root`, from wherever it stands, until nothing is left.

    Raises:
        HeldError: another driver holds the study; nothing was loaded.
        StudyError, ModelError: the study cannot be planned.
        StorageFullError: no room; what was committed stays, and the same command goes on.
        RunError: the workers cannot do the work.
        KeyboardInterrupt: Ctrl-C (or SIGTERM) before any job ran, or a second one after that.
    """
    started = time.monotonic()
    store = StudyStore(root)
    with store.open_driver(take_over=options.take_over) as driver, ExitStack() as stack:
        stop = stack.enter_context(_listening(progress))
        ref, plan, setup, engines = _plan(study, store, driver, options, progress)
        before = counts_of(plan, driver.state)
        work = open_work(plan, driver.state)
        if work:
            stop.can_drain = True
            schedule = Schedule(work, first_rate=setup.rate)
            executor = setup.make_executor(root, ref, driver.epoch, engines)
            stack.callback(executor.close)
            progress.begin(before, setup)
            loop = _Loop(schedule, executor, driver, plan, progress, stop)
            loop.run()
            if len(plan.lanes) == 1 and (rate := schedule.measured_rate) is not None:
                remember_rate(next(iter(plan.lanes.values())), setup.threads, rate)
        after = counts_of(plan, driver.state)
    if not stop.asked and after.num_done < after.num_jobs:
        raise RunError(
            f"{after.num_jobs - after.num_done:,} of {after.num_jobs:,} jobs were left out; run the same"
            " command again"
        )
    return Outcome(
        root=root,
        counts=after,
        num_ran=after.num_done - before.num_done,
        seconds=time.monotonic() - started,
        interrupted=stop.asked and after.num_done < after.num_jobs,
    )


def _plan(
    study: Study, store: StudyStore, driver: Driver, options: RunOptions, progress: Progress
) -> tuple[PlanRef, Plan, Setup, Engines]:
    """The committed plan of `study`: the one that is there, or a new one; and how it is to be run."""
    planner = Planner(study, say=progress.say)
    ref = driver.state.plan
    earlier = read_plan(store, ref) if ref is not None else None
    if ref is not None and earlier is not None and earlier.head["digest"] == planner.digest:
        setup = set_up(earlier, _num_open(earlier, driver.state), options)
        return ref, earlier, setup, setup.engines
    draft = planner.draft(CachedScorer(kept_runs(), None), earlier, driver.state)
    setup = set_up(draft.plan, _num_open(draft.plan, driver.state), options)
    engines = setup.engines
    if not draft.complete:
        progress.say("running the prompts without interventions")
        with _scorer(setup, engines) as scorer:
            draft = planner.draft(scorer, earlier, driver.state)
    if earlier is not None and driver.state.live and not options.replace:
        _refuse_stranger(draft.plan, earlier, store.root)
    progress.planned(draft.plan)
    files = {**encode_plan(draft.plan), "study.yaml": study.to_yaml().encode()}
    return driver.write_plan(files), draft.plan, setup, engines


def _refuse_stranger(plan: Plan, earlier: Plan, root: Path) -> None:
    """A plan that has no job in common with what was done is a mistake more often than a wish."""
    if not any(tile.wanted for number, tile in plan.tiles.items() if number in earlier.tiles):
        raise StoreError(
            f"{root} holds results of another study {plan.head['study']!r}: no job of theirs is in this one."
            " Rename the study, take another folder with --store, or go on there with --replace (the results"
            " stay on the disk, and the views no longer show them)"
        )


def _num_open(plan: Plan, state: State) -> int:
    counts = counts_of(plan, state)
    return counts.num_jobs - counts.num_done


@contextmanager
def _scorer(setup: Setup, engines: Engines) -> Iterator[Scorer]:
    """Scores in this process where the jobs will run here too, otherwise in a child that goes away."""
    if setup.executor == "inline":
        yield CachedScorer(kept_runs(), EngineScorer(engines))
        return
    with ChildScorer(threads=num_cores()) as child:
        yield CachedScorer(kept_runs(), child)


@contextmanager
def _listening(progress: Progress) -> Iterator[_Stop]:
    """Within it Ctrl-C and SIGTERM ask to stop; only the main thread can be told of them."""
    stop = _Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked or not stop.can_drain:
            raise KeyboardInterrupt
        stop.asked = True
        # The line that this signal came in the middle of may still hold the stream.
        with suppress(RuntimeError):
            progress.say("stopping: what runs is finished and committed; Ctrl-C again aborts it")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Loop:
    """Hands out slices and commits parts until nothing is left or somebody asks to stop."""

    def __init__(
        self,
        schedule: Schedule,
        executor: Executor,
        driver: Driver,
        plan: Plan,
        progress: Progress,
        stop: _Stop,
    ) -> None:
        self._schedule = schedule
        self._executor = executor
        self._driver = driver
        self._plan = plan
        self._progress = progress
        self._stop = stop
        self._idle: list[int] = []
        self._num_busy = 0
        self._num_failed_calls = 0
        self._num_deaths = 0
        self.num_workers = 0

    def run(self) -> None:
        """Until nothing is left."""
        self._idle = list(self._executor.start())
        self.num_workers = len(self._idle)
        for worker in self._idle:
            self._schedule.join(worker)
        started = shown = time.monotonic()
        while True:
            if not self._stop.asked:
                self._hand_out(time.monotonic() - started)
            if not self._num_busy:
                return
            manifests: list[Manifest] = []
            for event in self._executor.wait(POLL_S):
                self._num_busy -= 1
                manifests += self._take(event)
            if manifests:
                self._commit(manifests)
            # Counting takes every tile of the plan: not at each of many short slices.
            if time.monotonic() - shown >= POLL_S:
                shown = time.monotonic()
                self._progress.update(counts_of(self._plan, self._driver.state))

    def _hand_out(self, elapsed_s: float) -> None:
        still_idle: list[int] = []
        for worker in self._idle:
            given = self._schedule.next_slice(worker, elapsed_s)
            if given is None:
                still_idle.append(worker)
                continue
            self._executor.submit(worker, given, self._schedule.target_s(elapsed_s))
            self._num_busy += 1
        self._idle = still_idle

    def _take(self, event: Event) -> list[Manifest]:
        """Note what came of a slice; the part that is to be committed, if there is one."""
        match event:
            case Finished(worker, taken, report):
                self._num_failed_calls = 0
                self._schedule.report(worker, taken, report.num_cells, report.seconds)
                self._idle.append(worker)
                return [report.manifest]
            case Failed(worker, taken, message):
                self._num_failed_calls += 1
                if self._num_failed_calls >= MAX_FAILED_CALLS:
                    raise RunError(f"{self._num_failed_calls} batches in a row failed: {message}")
                self._schedule.give_up(taken)
                self._idle.append(worker)
            case Died(worker, taken, message):
                self._num_deaths += 1
                if self._num_deaths > MAX_DEATHS * self.num_workers:
                    raise RunError(f"{self._num_deaths} workers died, the last one so: {message}")
                self._progress.say(f"worker {worker} died and is replaced: {message}")
                self._schedule.give_up(taken)
                self._schedule.leave(worker)
                fresh = self._executor.replace(worker)
                self._schedule.join(fresh)
                self._idle.append(fresh)
        return []

    def _commit(self, manifests: list[Manifest]) -> None:
        """Commit parts; one that holds jobs already done is refused, and they are counted once."""
        refused = self._driver.commit(manifests)
        for manifest in refused:
            self._progress.say(f"{manifest.path} repeats jobs that are done, and is left out")
