"""One driver runs one study: plan, hand out slices, commit what comes back, until nothing is left."""

__all__ = ["Outcome", "run_study"]

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.faults import reach
from orchestrator.loading import Engines
from orchestrator.machine import num_cores
from orchestrator.plan.clean import CachedScorer, ChildScorer, EngineScorer, Scorer, kept_runs
from orchestrator.plan.planner import Planner
from orchestrator.plan.tables import Plan, encode_plan, read_plan
from orchestrator.remaining import Counts, counts_of
from orchestrator.run.compactor import Compactor
from orchestrator.run.logs import DRIVER, WorkerLog
from orchestrator.run.loop import Loop
from orchestrator.run.progress import Progress
from orchestrator.run.rates import remember_rate
from orchestrator.run.retries import retry_work
from orchestrator.run.schedule import Schedule
from orchestrator.run.setup import RunOptions, Setup, set_up
from orchestrator.run.stopping import Reason, Stop, listening
from orchestrator.run.work import TileWork, open_work
from orchestrator.store import Driver, PlanRef, State, StudyStore
from studies import Study
from workers.errors import RunError, StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended."""

    root: Path
    counts: Counts
    num_ran: int
    """Jobs that this run did itself."""
    num_retried: int
    """Failed jobs that it ran again."""
    seconds: float
    stopped: Reason | None
    """Why it stopped before the end; None where nothing is left."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """A committed plan, and how it is to be run."""

    ref: PlanRef
    plan: Plan
    setup: Setup
    engines: Engines


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
    with ExitStack() as stack:
        driver = stack.enter_context(store.open_driver(take_over=options.take_over))
        log = stack.enter_context(WorkerLog(root, driver.epoch, DRIVER))
        log.capture(stdio=False)
        progress.also(log.note)
        stop = stack.enter_context(listening(progress))
        _sweep(driver, progress)
        planned = _plan(study, store, driver, options, progress)
        before = counts_of(planned.plan, driver.state)
        retries = _retries(planned.plan, store, driver, options, progress)
        num_retried = 0
        if retries or before.num_done < before.num_jobs:
            progress.begin(before, planned.setup)
            num_retried = _work(planned, retries, store, driver, options, progress, stop, started)
            _sweep(driver, progress)
        after = counts_of(planned.plan, driver.state)
        if stop.reason is None and after.num_done < after.num_jobs:
            raise RunError(
                f"{after.num_jobs - after.num_done:,} of {after.num_jobs:,} jobs were left out; run the same"
                " command again"
            )
    return Outcome(
        root=root,
        counts=after,
        num_ran=after.num_done - before.num_done,
        num_retried=num_retried,
        seconds=time.monotonic() - started,
        stopped=stop.reason if after.num_done < after.num_jobs or stop.reason == "failures" else None,
    )


def _sweep(driver: Driver, progress: Progress) -> None:
    """Clear what nobody will ever name again; that it cannot be done is no reason not to run."""
    if (problem := driver.sweep().problem) is not None:
        progress.say(problem)


def _retries(
    plan: Plan, store: StudyStore, driver: Driver, options: RunOptions, progress: Progress
) -> list[TileWork]:
    """The failed jobs that are to run again, if any were asked for."""
    if not options.retry_failed:
        return []
    found = retry_work(plan, driver.state, store, options.error_types)
    num_jobs = sum(hi - lo for work in found for lo, hi in work.jobs)
    progress.say(f"{num_jobs:,} failed jobs run again" if found else "no failed job is left to run again")
    return found


def _work(
    planned: _Planned,
    retries: list[TileWork],
    store: StudyStore,
    driver: Driver,
    options: RunOptions,
    progress: Progress,
    stop: Stop,
    started: float,
) -> int:
    """Do the open work and the retries; how many jobs were retried."""
    setup, plan = planned.setup, planned.plan
    with ExitStack() as stack:
        stop.can_drain = True
        executor = setup.make_executor(store.root, planned.ref, driver.epoch, planned.engines)
        stack.callback(executor.close)
        # Workers come up while this process finds out what remains.
        workers = executor.start()
        compactor = Compactor(store, driver, progress.say)
        stack.callback(compactor.close)
        loop = Loop(
            schedule=Schedule([*open_work(plan, driver.state), *retries], first_rate=setup.rate),
            executor=executor,
            workers=workers,
            driver=driver,
            plan=plan,
            compactor=compactor,
            stop=stop,
            limits=options.limits,
            say=progress.say,
            show=progress.update,
            logs=store.root / "logs" / str(driver.epoch),
            started=started,
        )
        loop.run()
    if len(plan.lanes) == 1 and (rate := loop.measured_rate) is not None:
        remember_rate(next(iter(plan.lanes.values())), setup.threads, rate)
    return loop.num_retried


def _plan(
    study: Study, store: StudyStore, driver: Driver, options: RunOptions, progress: Progress
) -> _Planned:
    """The committed plan of `study`: the one that is there, or a new one; and how it is to be run."""
    planner = Planner(study, say=progress.say)
    ref = driver.state.plan
    earlier = read_plan(store, ref) if ref is not None else None
    if ref is not None and earlier is not None and earlier.head["digest"] == planner.digest:
        setup = set_up(earlier, _num_open(earlier, driver.state), options)
        return _Planned(ref, earlier, setup, setup.engines)
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
    reach("driver.plan")
    return _Planned(driver.write_plan(files), draft.plan, setup, engines)


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
