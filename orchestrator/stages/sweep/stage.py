"""Stage of the sweep: all jobs that a plan wants and that are not done, and failed ones that run again."""

__all__ = ["STAGE", "CellStage"]

from orchestrator.plan.remaining import counts_of
from orchestrator.stages.bench import WorkerBench
from orchestrator.stages.contract import Desk, Hands, RunScene, Stage
from orchestrator.stages.sweep.cells import CellHands
from orchestrator.stages.sweep.desk import CellDesk
from orchestrator.stages.sweep.retries import lost_retry_work, retry_work
from orchestrator.stages.sweep.work import SWEEP, TileWork


class CellStage(Stage):
    """Cells of a plan, run or estimated. A plan of which no cell is selected yet has only estimates."""

    name = SWEEP
    folders = ("data",)
    order = 2
    is_of_selected = True
    """Whether it does the cells of plans whose cells are selected, or of the others."""

    def open(self, scene: RunScene) -> Desk | None:
        """As `Stage.open`."""
        plan = scene.planned.plan
        if plan.is_selected != self.is_of_selected:
            return None
        retries = [] if scene.has_retried else _retries(scene)
        scene.has_retried = True
        if retries or counts_of(plan, scene.driver.state).num_open:
            return CellDesk(scene, retries)
        return None

    def hands(self, bench: WorkerBench) -> Hands:
        """As `Stage.hands`."""
        return CellHands(bench)


def _retries(scene: RunScene) -> list[TileWork]:
    """Failed jobs that run again: those that were asked for, or whose retries were lost."""
    plan, state, store, options = scene.planned.plan, scene.driver.state, scene.store, scene.options
    if not options.retry_failed:
        return lost_retry_work(plan, state, store)
    found = retry_work(plan, state, store, options.error_types)
    num_jobs = sum(hi - lo for work in found for lo, hi in work.jobs)
    told = f"{num_jobs:,} failed jobs run again" if found else "no failed job is left to run again"
    scene.progress.say(told)
    return found


STAGE = CellStage()
