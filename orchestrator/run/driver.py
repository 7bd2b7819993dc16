"""One driver runs one study: plan, hand out slices, commit what comes back, until nothing is left."""

__all__ = ["Outcome", "run_study"]

import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.lost import find_lost, remedy_for
from orchestrator.plan.tables import Plan
from orchestrator.remaining import Counts, counts_of
from orchestrator.run.committed import Planned, commit_plan, commit_selection
from orchestrator.run.compactor import Compactor, most_files
from orchestrator.run.executors import InlineExecutor
from orchestrator.run.forecasts import forecast_of
from orchestrator.run.left import LeftNote
from orchestrator.run.logs import DRIVER, WorkerLog
from orchestrator.run.loop import Loop
from orchestrator.run.progress import Progress
from orchestrator.run.rates import remember_rate
from orchestrator.run.retries import lost_retry_work, retry_work
from orchestrator.run.schedule import Schedule
from orchestrator.run.setup import RunOptions
from orchestrator.run.stopping import Reason, Stop, listening
from orchestrator.run.training_stage import TrainingStage
from orchestrator.run.work import TileWork, open_work
from orchestrator.store import Driver, StudyStore
from orchestrator.store.storage import named
from orchestrator.store.verify import damaged_files
from studies import Study
from studies.remote import remote_code
from workers.errors import RunError, StoreError, counted


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
    factor: float | None = field(default=None, init=False)
    """By how much longer than expected a stage before this one took."""
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
        if self._train(planned):
            planned = commit_plan(study, self.store, self.driver, self.options, self.progress.say)
        if self.is_left:
            return self._outcome(counts_of(planned.plan, self.driver.state), 0), planned.plan
        retries = self._retries(planned)
        num_ran = self._stage(planned, retries)
        if not planned.plan.is_selected and not self.is_left and self.stop.reason is None:
            planned = commit_selection(
                planned, study, self.store, self.driver, self.options, self.progress.say
            )
            self.progress.planned(planned.plan)
            num_ran += self._stage(planned, [])
        after = counts_of(planned.plan, self.driver.state)
        self.is_left |= not after.is_complete
        if self.is_left and self.stop.reason is None:
            raise RunError(
                f"{after.num_open:,} of {after.now[1]:,} {after.now[2]} were left out; run the same command"
                " again"
            )
        return self._outcome(after, num_ran), planned.plan

    def _outcome(self, counts: Counts, num_ran: int) -> Outcome:
        return Outcome(
            root=self.store.root,
            counts=counts,
            num_ran=num_ran,
            num_retried=self.num_retried,
            seconds=time.monotonic() - self.started,
            stopped=self.stop.reason if self.is_left or self.stop.reason == "failures" else None,
        )

    def _stage(self, planned: Planned, retries: list[TileWork]) -> int:
        """Do what the plan knows of that remains; how many jobs that were."""
        before = counts_of(planned.plan, self.driver.state)
        if retries or before.num_open:
            self.progress.begin(before, planned.setup)
            self._work(planned, retries)
            self._sweep()
        return counts_of(planned.plan, self.driver.state).num_done - before.num_done

    def _train(self, planned: Planned) -> bool:
        """Train what is left to train of the study's own models; whether anything was.

        Raises:
            ModelError: the model of another study is swept, and is not there.
        """
        stage = TrainingStage(self.store.root, planned, self.options)
        if stage.todo:
            self.stop.can_drain = True
            self.is_left = stage.run(self.driver, self.stop, self.progress, self.started)
            self.factor = stage.factor
        if not self.is_left:
            stage.check()
        return bool(stage.todo)

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

    def _retries(self, planned: Planned) -> list[TileWork]:
        """The failed jobs that are to run again, if any were asked for."""
        if not self.options.retry_failed:
            return lost_retry_work(planned.plan, self.driver.state, self.store)
        found = retry_work(planned.plan, self.driver.state, self.store, self.options.error_types)
        num_jobs = sum(hi - lo for work in found for lo, hi in work.jobs)
        told = f"{num_jobs:,} failed jobs run again" if found else "no failed job is left to run again"
        self.progress.say(told)
        return found

    def _work(self, planned: Planned, retries: list[TileWork]) -> None:
        """Do the open work and the retries."""
        setup, plan, driver, limits = planned.setup, planned.plan, self.driver, self.options.limits
        with ExitStack() as stack:
            self.stop.can_drain = True
            executor = setup.make_executor(self.store.root, planned.ref, driver.epoch, planned.engines)
            stack.callback(executor.close)
            # Workers come up while this process finds out what remains.
            began = time.monotonic()
            workers = executor.start()
            compactor = Compactor(self.store, driver, self.progress.say, most_files=most_files())
            stack.callback(compactor.close)
            work = open_work(plan, driver.state, planned.facts)
            schedule = Schedule([*work, *retries], first_rate=setup.rate)
            loop = Loop(
                schedule=schedule,
                executor=executor,
                workers=workers,
                driver=driver,
                plan=plan,
                compactor=compactor,
                stop=self.stop,
                # What is estimated is no job that was done.
                limits=limits if plan.is_selected else replace(limits, jobs=None),
                require=tuple(dict.fromkeys((*self.options.require, *(self.study.require or ())))),
                progress=self.progress,
                logs=self.store.logs(driver.epoch),
                started=self.started,
                forecast=forecast_of(
                    planned, schedule, self.store, driver.epoch, len(workers), self.factor, began
                ),
            )
            if isinstance(executor, InlineExecutor):
                executor.pulse = loop.show
                executor.at_once = self.stop.at_once
            loop.run()
        self.num_retried += loop.num_retried
        self.is_left = not schedule.is_empty or counts_of(plan, driver.state).num_open > 0
        if not plan.is_selected:
            return
        if num_rerun := _num_rerun(driver):
            self.progress.warn(
                f"{num_rerun:,} jobs failed in a resumed forward and were run whole: slower, the numbers are"
                " good; their tier is rerun, and the workers' logs say what failed"
            )
        if len(plan.lanes) == 1 and schedule.measured_rate is not None:
            remember_rate(next(iter(plan.lanes.values())), setup.threads, schedule.measured_rate)


def _num_rerun(driver: Driver) -> int:
    """Jobs of this driver whose resumed forward failed, so that they were run whole."""
    mine = f"data/{driver.epoch}/"
    return sum(
        part.tiers.get("rerun", 0) for path, part in driver.state.live.items() if path.startswith(mine)
    )
