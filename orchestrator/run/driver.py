"""One driver runs one study: plan, hand out slices, commit what comes back, until nothing is left."""

__all__ = ["Outcome", "run_study"]

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.plan.remaining import Counts, counts_of
from orchestrator.plan.tables import Plan
from orchestrator.run.cluster import RayExecutor
from orchestrator.run.compactor import Compactor, most_files
from orchestrator.run.device_setup import RunOptions, Setup
from orchestrator.run.engines import Engines
from orchestrator.run.executors import Executor, InlineExecutor
from orchestrator.run.left import LeftNote
from orchestrator.run.logs import DRIVER, WorkerLog
from orchestrator.run.loop import Loop
from orchestrator.run.plan_store import commit_plan
from orchestrator.run.progress import Progress
from orchestrator.run.schedule import WorkSchedule
from orchestrator.run.stopping import Reason, Stop, listening
from orchestrator.run.worker import StudyWorker
from orchestrator.stages.contract import Desk, RunScene, Stage
from orchestrator.stages.registry import find_stages
from orchestrator.store import Driver, PlanRef, StudyStore
from orchestrator.store.storage import named
from orchestrator.store.verify import damaged_files
from orchestrator.upkeep.lost import find_lost, remedy_for
from studies import Study
from studies.language.functions import remote_code
from workers.errors import RunError, StoreError, counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """End of a run."""

    root: Path
    counts: Counts
    num_ran: int
    """Jobs that this run did itself."""
    num_retried: int
    """Failed jobs that it ran again."""
    seconds: float
    stopped: Reason | None
    """Why it stopped before the end; None where nothing is left."""


def run_study(study: Study, root: Path, options: RunOptions, progress: Progress) -> Outcome:
    """Run `study` in the folder `root`, from wherever it stands, until nothing is left.

    Raises:
        HeldError: another driver holds the study; nothing was loaded.
        StudyError, ModelError: the study cannot be planned.
        StorageFullError: no room; what was committed stays, and the same command goes on.
        RunError: the workers cannot do the work.
        StoreError: rows that were done are lost or damaged; what was open is done nonetheless.
        KeyboardInterrupt: Ctrl-C (or SIGTERM) before any job ran, or a second one after that.
    """
    started = time.monotonic()
    options = replace(options, code=study.code, remote_code=remote_code(study) | options.remote_code)
    store = StudyStore(root)
    with ExitStack() as stack:
        driver = stack.enter_context(store.open_driver(take_over=options.take_over))
        log = stack.enter_context(WorkerLog(root, driver.epoch, DRIVER))
        log.capture(stdio=False)
        progress.also(log.note)
        stack.callback(LeftNote(store.logs(driver.epoch)).clear)
        stop = stack.enter_context(listening(progress))
        return _Run(store, driver, study, options, progress, stop, started).go()


@dataclass(slots=True)
class _Run:
    """One run of a study that is open."""

    store: StudyStore
    driver: Driver
    study: Study
    options: RunOptions
    progress: Progress
    stop: Stop
    started: float
    num_retried: int = field(default=0, init=False)
    is_left: bool = field(default=False, init=False)
    """Whether work was left that this run meant to do."""
    has_told: bool = field(default=False, init=False)
    """Whether it was said that files are left alone."""

    def go(self) -> Outcome:
        """Plan, work, and say how it ended; a study of which rows are lost does not end well."""
        outcome, plan = self._done()
        if outcome.stopped != "interrupted":
            self._refuse_lost(plan)
        return outcome

    def _done(self) -> tuple[Outcome, Plan]:
        """Plan and work; a screened study is estimated, then selected from, then run."""
        study = self.study
        self._adopt()
        self._sweep()
        self._say_what_is_lost()
        planned = commit_plan(study, self.store, self.driver, self.options, self.progress.say)
        if planned.is_new:
            self.progress.planned(planned.plan)
        scene = RunScene(study, self.store, self.driver, self.options, self.progress, planned, self.stop)
        num_ran = 0
        for stages in _turns(find_stages()):
            desks = {stage: desk for stage in stages if (desk := stage.open(scene)) is not None}
            if desks and self.stop.reason is not None:
                self.is_left = True
            elif desks:
                num_ran += self._turn(scene, list(desks.values()))
            for stage in stages:
                changed = stage.over(scene, was_open=stage in desks, is_left=self.is_left)
                scene.planned = changed or scene.planned
            if self.is_left:
                break
        after = counts_of(scene.planned.plan, self.driver.state)
        self.is_left |= not after.is_complete
        if self.is_left and self.stop.reason is None:
            raise RunError(
                f"{after.num_open:,} of {after.now[1]:,} {after.now[2]} were left out; run the same command"
                " again"
            )
        return self._outcome(after, num_ran), scene.planned.plan

    def _outcome(self, counts: Counts, num_ran: int) -> Outcome:
        return Outcome(
            root=self.store.root,
            counts=counts,
            num_ran=num_ran,
            num_retried=self.num_retried,
            seconds=time.monotonic() - self.started,
            stopped=self.stop.reason if self.is_left or self.stop.reason == "failures" else None,
        )

    def _turn(self, scene: RunScene, desks: Sequence[Desk]) -> int:
        """Do what is open on the desks of some stages, with the same workers; how many jobs that were."""
        driver, planned, first = self.driver, scene.planned, desks[0]
        before = counts_of(planned.plan, driver.state)
        first.announce()
        with ExitStack() as stack:
            self.stop.can_drain = True
            executor = _make_executor(first.setup, self.store.root, planned.ref, driver.epoch, first.engines)
            stack.callback(executor.close)
            # Workers come up while this process finds out what remains.
            began = time.monotonic()
            workers = executor.start()
            compactor = Compactor(self.store, driver, self.progress.say, most_files=most_files())
            stack.callback(compactor.close)
            units = [unit for desk in desks for unit in desk.units]
            schedule = WorkSchedule(units, first_rate=first.setup.rate)
            for desk in desks:
                desk.begin(schedule, len(workers), began)
            loop = Loop(
                desks,
                schedule=schedule,
                executor=executor,
                workers=workers,
                driver=driver,
                plan=planned.plan,
                compactor=compactor,
                stop=self.stop,
                limits=self.options.limits,
                require=tuple(dict.fromkeys((*self.options.require, *(self.study.require or ())))),
                progress=self.progress,
                logs=self.store.logs(driver.epoch),
                started=self.started,
            )
            if isinstance(executor, InlineExecutor):
                executor.pulse, executor.at_once = loop.show, self.stop.at_once
                executor.is_asked = lambda: self.stop.reason is not None
            loop.run()
        self.num_retried += loop.num_retried
        self.is_left = not schedule.is_empty or any(desk.is_left for desk in desks)
        for desk in desks:
            desk.end()
        self._sweep()
        return counts_of(planned.plan, driver.state).num_done - before.num_done

    def _sweep(self) -> None:
        """Clear what nobody will ever name again; that it cannot be done is no reason not to run."""
        swept = self.driver.collect_garbage()
        if swept.problem is not None:
            self.progress.say(swept.problem)
        if swept.num_kept and not self.has_told:
            self.has_told = True
            study = named(self.store.root)
            self.progress.say(
                f"{swept.num_kept:,} files of rows that no commit names are left alone: swapyard doctor"
                f" --repair {study} adds what belongs to the study, and --clear lists and removes them"
            )

    def _say_what_is_lost(self) -> None:
        """Warn of files of rows that are missing or cut: their jobs count as done until they are dropped."""
        damaged = damaged_files(self.store.root, self.driver.state, verify=False)
        if damaged:
            num_rows = sum(one.num_rows for one in damaged)
            self.progress.warn(
                f"{num_rows:,} rows that were done are lost ({damaged[0].path} {damaged[0].why}) and count as"
                f" done: {remedy_for(self.store.root)}"
            )

    def _refuse_lost(self, plan: Plan) -> None:
        """Refuse to call a study done of which rows are lost: until a repair their jobs count as done."""
        lost = find_lost(self.store.root, self.driver.state, plan)
        if lost is not None:
            raise StoreError(f"{lost}. Whatever else was done is kept, what this run did as well")

    def _adopt(self) -> None:
        """Add what a killed driver left uncommitted, so that nothing is computed twice."""
        found = self.driver.adopt()
        if found:
            num_rows = sum(part.rows for part in found)
            self.progress.say(
                f"{counted(num_rows, 'row')} in {counted(len(found), 'part')} are added, which a"
                " driver that was killed did not commit"
            )


def _turns(stages: Sequence[Stage]) -> Iterator[Sequence[Stage]]:
    """Stages that run together: one that changes the plan is alone, and all others come after it."""
    yield from ([stage] for stage in stages if stage.changes_plan)
    yield [stage for stage in stages if not stage.changes_plan]


def _make_executor(setup: Setup, root: Path, plan: PlanRef, epoch: int, engines: Engines) -> Executor:
    """The executor; an inline one begins with `engines`, which may hold the model already."""
    if setup.executor == "inline":
        return InlineExecutor(
            lambda share: StudyWorker(root, plan, epoch=epoch, engines=_sized(engines, share))
        )
    make = {"root": root.resolve(), "plan": plan, "epoch": epoch}
    return RayExecutor(
        lambda share: {**make, "engines": _sized(setup.engines, share)},
        root=root.resolve(),
        epoch=epoch,
        num_workers=setup.num_workers,
        threads=setup.threads,
        address=setup.address,
        use_gpus=setup.use_gpus,
        num_parameters=setup.num_parameters,
        slice_timeout_s=setup.slice_timeout_s,
    )


def _sized(engines: Engines, share: float) -> Engines:
    """Engines that take a share of the usual memory; what they had loaded goes if that is not all of it."""
    if share == engines.share:
        return engines
    engines.release()
    return Engines(
        engines.threads,
        engines.num_sharing,
        share,
        code=engines.code,
        remote_code=engines.remote_code,
    )
