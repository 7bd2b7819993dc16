"""Stage of estimates: cells of a screened study, until it is known which of them the sweep runs."""

__all__ = ["STAGE", "EstimateStage"]

from orchestrator.run.plan_store import commit_selection
from orchestrator.stages.contract import Planned, RunScene
from orchestrator.stages.sweep.stage import CellStage
from orchestrator.stages.sweep.work import ESTIMATE_STAGE


class EstimateStage(CellStage):
    """Estimates of all cells; from them the cells that run are selected, and committed as a plan."""

    name = ESTIMATE_STAGE
    changes_plan = True
    order = 1
    is_of_selected = False

    def over(self, scene: RunScene, *, was_open: bool, is_left: bool) -> Planned | None:
        """As `Stage.over`."""
        if scene.planned.plan.is_selected or is_left or scene.stop.reason is not None:
            return None
        planned = commit_selection(
            scene.planned, scene.study, scene.store, scene.driver, scene.options, scene.progress.say
        )
        scene.progress.planned(planned.plan)
        return planned


STAGE = EstimateStage()
