"""Tables that installed stages bring to queries, besides the views that every study has."""

__all__ = ["stage_tables"]

import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

import pyarrow as pa

from orchestrator.plan.tables import read_plan
from orchestrator.stages import GROUP
from orchestrator.store import StudyStore


def stage_tables(studies: Sequence[Path]) -> dict[str, pa.Table]:
    """Tables of installed stages by name, each with the ``study`` that a row is of.

    Nothing is loaded where no package brings a stage.
    """
    if not entry_points(group=GROUP):
        return {}
    # Whoever plans looks at views, and a plan is made without what runs it.
    find_stages = importlib.import_module("orchestrator.stages.registry").find_stages
    found: dict[str, list[pa.Table]] = {}
    for root in studies:
        store = StudyStore(root)
        ref = store.latest_plan()
        if ref is None:
            continue
        plan = read_plan(store, ref)
        for stage in find_stages():
            for name, table in stage.tables(plan, store).items():
                study = pa.array([plan.head["study"]] * table.num_rows, pa.string())
                found.setdefault(name, []).append(table.add_column(0, "study", study))
    return {name: pa.concat_tables(tables) for name, tables in found.items()}
