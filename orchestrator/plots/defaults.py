"""Choice of pictures: a study's own, or a sensible one for a study that names none."""

__all__ = ["changed", "default_plot", "own_plots", "own_study"]

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import duckdb

from orchestrator.plan.tables import Plan, read_plan
from orchestrator.plots.data import MAX_FACETS
from orchestrator.query.axes import model_columns, varying
from orchestrator.query.statements import run_query
from orchestrator.store import StudyStore
from orchestrator.trust import is_trusted
from studies import Study
from studies.language.results import Plot
from studies.load import stored_study
from workers.code.places import Code
from workers.errors import QueryError, StoreError
from workers.libraries.duckdb import quoted

_ALONG = ("position", "base_position")
"""Position in the base, as written or as found; as written only if it was found at several tokens."""
_ACROSS = (*_ALONG, "head")
"""Columns along a heat map's axis: the first that varies is taken."""
_DOWN = ("layer", "head", "subspace", "fit_rank", "intervention")
"""Columns upwards: the first that varies and does not lie along is taken."""
_MEANT = ("seed",)
"""Axes that are always averaged over, and said to be."""


def own_plots(root: Path) -> Mapping[str, Plot]:
    """The plots of the study in the folder `root`, from its committed plan; none where it names none.

    Raises:
        StoreError: there is no study, or it was never planned.
    """
    return own_study(root).plots or {}


def own_study(root: Path, code: Code | None = None) -> Study:
    """The study in the folder `root`, as it was planned last.

    Its functions lie in `code`, or where they did then, if that folder is trusted.

    Raises:
        StoreError: there is no study, or it was never planned.
    """
    store = StudyStore(root)
    plan = store.latest_plan()
    if plan is None:
        raise StoreError(f"the study in {root} has no plan yet; run it with: swapyard run {root.name}")
    text = store.read_plan_file(plan, "study.yaml").decode()
    study = stored_study(text, str(root / "plan" / plan.id / "study.yaml"))
    if code is None:
        code = _code_of(read_plan(store, plan, {}), study.code)
    return study.with_code(code)


def _code_of(plan: Plan, known: Code) -> Code:
    """Place of a planned study's own code: the current folder where no plan says it."""
    folder = Path(plan.head.get("code", Path.cwd()))
    return replace(known, folders=(folder,), is_trusted=is_trusted(folder))


def default_plot(connection: duckdb.DuckDBPyConnection, kind: str) -> Plot:
    """Layers by positions (or by heads, where one position was changed), of the first that is known of
    accuracy, effect, divergence.

    A facet for each combination of all other axes that vary, as far as there is room; of what is left the
    picture says that it runs over it. Seeds have no facets of their own: their mean is what is asked for.

    Raises:
        QueryError: no job of the study is done.
    """
    columns = run_query(connection, "FROM results").columns
    value = _first_known(connection, ("iia", "logit_diff - base_run_logit_diff", "kl_base"))
    axes = varying(connection)
    across = next((axis for axis in _ACROSS if axis in axes), "base_position")
    others = [axis for axis in axes if axis not in (across, *_ALONG, *_MEANT)]
    down = next((axis for axis in _DOWN if axis in others), "layer" if "layer" in columns else "block")
    wanted = (*model_columns(connection), "site", "block", *sorted(others, key="head".__eq__))
    facet = _facets(connection, [axis for axis in dict.fromkeys(wanted) if axis in others and axis != down])
    # Accuracies can be compared; a difference in logits is mostly a matter of the site.
    scale = "shared" if value == "iia" else "own"
    if kind == "heatmap":
        return Plot(kind=kind, x=across, y=down, facet=facet or None, fill=value, scale=scale)
    return Plot(kind=kind, x=[down, across], y=value, facet=facet or None)


def _facets(connection: duckdb.DuckDBPyConnection, axes: Sequence[str]) -> list[str]:
    """As many of the axes, from the first, as make no more facets than can be drawn."""
    chosen: list[str] = []
    for axis in axes:
        columns = ", ".join(map(quoted, [*chosen, axis]))
        sql = f"SELECT count(*) FROM (SELECT DISTINCT {columns} FROM results)"
        if run_query(connection, sql).fetchall()[0][0] <= MAX_FACETS:
            chosen.append(axis)
    return chosen


def changed(plot: Plot, changes: Mapping[str, object]) -> Plot:
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
