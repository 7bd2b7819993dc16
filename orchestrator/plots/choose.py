"""Which pictures: a study's own, or a sensible one for a study that names none."""

__all__ = ["changed", "default_plot", "own_plots", "own_study"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb

from orchestrator.query import run_query
from orchestrator.store import StudyStore
from orchestrator.views.names import quoted
from orchestrator.views.trainings import kinds_of
from studies import Study, load_study
from studies.plots import Plot
from workers.errors import QueryError, StoreError


def own_plots(root: Path) -> Mapping[str, Plot]:
    """The plots of the study in the folder `root`, from its committed plan; none where it names none.

    Raises:
        StoreError: there is no study, or it was never planned.
    """
    return own_study(root).plots or {}


def own_study(root: Path) -> Study:
    """The study in the folder `root`, as it was planned last.

    Raises:
        StoreError: there is no study, or it was never planned.
    """
    store = StudyStore(root)
    plan = store.latest_plan()
    if plan is None:
        raise StoreError(f"the study in {root} has no plan yet; run it with: swapyard run {root.name}")
    return load_study(store.read_plan_file(plan, "study.yaml").decode())


def default_plot(connection: duckdb.DuckDBPyConnection, kind: str) -> Plot:
    """Layers by positions, a facet each site, of the first that is known of accuracy, effect, divergence.

    Raises:
        QueryError: no job of the study is done.
    """
    columns = run_query(connection, "FROM results").columns
    value = _first_known(connection, ("iia", "logit_diff - base_run_logit_diff", "kl_base"))
    kinds = (*kinds_of(connection), "site")
    facet = [column for column in kinds if _varies(connection, columns, column)] or None
    down = "layer" if "layer" in columns else "block"
    # Accuracies can be compared; a difference in logits is mostly a matter of the site.
    scale = "shared" if value == "iia" else "own"
    if kind == "heatmap":
        return Plot(kind=kind, x="base_position", y=down, facet=facet, fill=value, scale=scale)
    return Plot(kind=kind, x=[down, "base_position"], y=value, facet=facet)


def changed(plot: Plot, changes: Mapping[str, Any]) -> Plot:
    """`plot` with some keys replaced, all validated; its title goes with what it was the title of.

    Raises:
        StudyError: a key cannot have such a value.
    """
    if not changes:
        return plot
    return Plot(**{**plot.model_dump(exclude_none=True), "title": None, **changes})


def _first_known(connection: duckdb.DuckDBPyConnection, values: tuple[str, ...]) -> str:
    counts = ", ".join(f"count({value})" for value in values)
    found = run_query(connection, f"SELECT {counts} FROM results").fetchall()[0]
    for value, count in zip(values, found, strict=True):
        if count:
            return value
    raise QueryError("there is nothing to draw yet: no job of the study has a result; see: swapyard status")


def _varies(connection: duckdb.DuckDBPyConnection, columns: list[str], column: str) -> bool:
    if column not in columns:
        return False
    found = run_query(connection, f"SELECT count(DISTINCT {quoted(column)}) FROM results").fetchall()[0][0]
    return bool(found > 1)
