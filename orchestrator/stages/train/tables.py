"""Tables of a study's trainings for its views: the progress of each, and its learning curves so far."""

__all__ = ["view_tables"]

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from orchestrator.plan.tables import Plan
from orchestrator.plan.trainings import PlannedTraining, planned_trainings
from orchestrator.stages.train.store import CURVE_SCHEMA, TrainingFolder
from orchestrator.store.storage import Storage

_STATUS = pa.schema(
    [
        ("status", pa.string()),
        ("step", pa.int64()),
        ("num_attempts", pa.int64()),
        ("resumed_from", pa.list_(pa.int64())),
        ("num_executed", pa.int64()),
        ("num_parameters", pa.int64()),
        ("artifact", pa.string()),
        ("error_type", pa.string()),
        ("error_message", pa.string()),
        ("spec", pa.string()),
    ]
)


def view_tables(plan: Plan, storage: Storage) -> dict[str, pa.Table]:
    """Tables of the views ``trainings`` and ``curves``."""
    folder = TrainingFolder(storage)
    return {"trained": _trainings_table(plan, folder), "curves": _curves_table(plan, folder)}


def _trainings_table(plan: Plan, folder: TrainingFolder) -> pa.Table:
    """One row for each training of the plan: its axes, and how far it is.

    Those of other studies whose models it takes have no row, but their axes are columns.
    """
    planned = list(planned_trainings(plan.tables).values())
    rows = [_status(one, folder) for one in planned]
    status = pa.Table.from_pylist(rows, _STATUS)
    return _joined(_named(planned, [1] * len(planned), _axes(plan)), status)


def _curves_table(plan: Plan, folder: TrainingFolder) -> pa.Table:
    """One row for each number that was measured of a training of the plan."""
    planned = list(planned_trainings(plan.tables).values())
    curves = [folder.curve(one.identity) for one in planned]
    measured = pa.concat_tables([CURVE_SCHEMA.empty_table(), *curves])
    return _joined(_named(planned, [curve.num_rows for curve in curves], _axes(plan)), measured)


def _axes(plan: Plan) -> list[str]:
    """The axes of all trainings whose models the study may take."""
    every = planned_trainings(plan.tables, others=True).values()
    return list(dict.fromkeys(axis for one in every for axis in one.training.axes))


def _status(one: PlannedTraining, folder: TrainingFolder) -> dict[str, object]:
    found = folder.status(one.identity)
    resumed = [attempt["from_step"] for attempt in found.attempts[1:]]
    return {
        **{name: found.report.get(name) for name in _STATUS.names},
        "status": found.status,
        "step": found.step,
        "num_attempts": len(found.attempts),
        "resumed_from": resumed,
        "spec": json.dumps(one.training.spec),
    }


def _named(planned: Sequence[PlannedTraining], counts: Sequence[int], axes: Sequence[str]) -> pa.Table:
    """Identity, name and axes of each training, repeated as often as is asked for."""

    def column(values: Sequence[object]) -> pa.Array:
        return pa.array([v for v, count in zip(values, counts, strict=True) for _ in range(count)])

    text: Mapping[str, Sequence[str]] = {
        "training": [one.identity for one in planned],
        "name": [one.training.name for one in planned],
    }
    columns = {name: column(values).cast(pa.string()) for name, values in text.items()}
    return pa.table(
        columns | {axis: column([one.training.axes.get(axis) for one in planned]) for axis in axes}
    )


def _joined(left: pa.Table, right: pa.Table) -> pa.Table:
    """Two tables beside each other; an axis that is called as a column of ours stands as ``axis.NAME``."""
    names = [f"axis.{name}" if name in right.column_names else name for name in left.column_names]
    return pa.table([*left.columns, *right.columns], names=[*names, *right.column_names])
