"""Table of a study's fits for its views: the plan of each, and its report once it is made."""

__all__ = ["view_tables"]

import json
from collections.abc import Callable

import pyarrow as pa

from orchestrator.plan.fit_tables import planned_fits
from orchestrator.plan.tables import Plan
from orchestrator.stages.fit.store import FitFolder
from orchestrator.store.storage import JsonObject, Storage
from workers.fit_methods import TRAINED, WITHOUT_PAIRS

_PLANNED = (
    ("fit", pa.string()),
    ("lane", pa.uint16()),
    *((name, pa.string()) for name in ("name", "method", "site")),
    ("layer", pa.int64()),
    ("heads", pa.list_(pa.int64())),
    *((name, pa.string()) for name in ("position", "read")),
    *((name, pa.int64()) for name in ("rank", "seed")),
    ("per", pa.string()),
)
_REPORTED = (
    ("num_steps", pa.int64()),
    ("loss", pa.float64()),
    ("held_out_iia", pa.float64()),
    ("num_parameters", pa.int64()),
    ("seconds", pa.float64()),
)
_SCHEMA = pa.schema(
    [
        *_PLANNED,
        ("num_pairs", pa.int64()),
        ("num_held_out", pa.int64()),
        ("made", pa.bool_()),
        *_REPORTED,
    ]
)


def view_tables(plan: Plan, storage: Storage) -> dict[str, pa.Table]:
    """Table of the view ``fits``."""
    return {"fits": _fits_table(plan, FitFolder(storage).about)}


def _fits_table(plan: Plan, about: Callable[[str], JsonObject | None]) -> pa.Table:
    """One row for each fit and name that the plan's cells use; what is not made yet has no report.

    What is read from a file counts as made.

    Args:
        plan: of the study.
        about: what is known of a fit by its identity, None where it is not made.
    """
    if "fits" not in plan.tables:
        return _SCHEMA.empty_table()
    fits = planned_fits(plan.tables)
    found = {fit: about(fit) for fit in fits}
    rows = [
        {
            **{name: row[name] for name, _ in _PLANNED},
            **_positions(row),
            "num_pairs": 0 if row["method"] in WITHOUT_PAIRS else len(fits[row["fit"]].pairs),
            "num_held_out": len(fits[row["fit"]].held_out),
            **_reported(found[row["fit"]]),
            "made": row["method"] == "sae" or found[row["fit"]] is not None,
        }
        for row in plan.tables["fits"].to_pylist()
    ]
    return pa.Table.from_pylist(rows, _SCHEMA)


def _positions(row: JsonObject) -> dict[str, str | None]:
    """Positions of a fit, as the study writes them; None where the method does not use them."""
    position = [str(item) for item in json.loads(row["position"])]
    shown = position[0] if len(position) == 1 else f"[{', '.join(position)}]"
    read = str(json.loads(row["read"])) if row["method"] in TRAINED else None
    return {"position": shown if position else None, "read": read}


def _reported(about: JsonObject | None) -> JsonObject:
    report = {} if about is None else about["report"]
    return {name: report.get(name) for name, _ in _REPORTED}
