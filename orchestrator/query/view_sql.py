"""SQL of one study's views. Every name of a study's own tables begins with its prefix."""

__all__ = [
    "STUDY_VIEWS",
    "axis_columns",
    "estimates",
    "facts",
    "near_tie",
    "pair_column",
    "results",
    "study_views",
]

from collections.abc import Collection, Mapping, Sequence

from orchestrator.query.columns import (
    as_text,
    have_common_type,
    names_in_results,
    public_names,
    said_by_pairs,
)
from orchestrator.query.join_tables import one_position, sides
from orchestrator.query.needs import STUDY_VIEWS, QueryNeeds
from orchestrator.query.tables import FilesOf, StudyTables
from studies.names import PAIR_COLUMNS
from workers.libraries.duckdb import file_value, literal, quoted
from workers.metrics import (
    DERIVED,
    ESTIMATE,
    LABELS,
    METRIC_FAMILIES,
    OBSERVED,
    RUN_VALUES,
    Metric,
    raw_metrics,
)

_ROW = ("error", "attempt", "tier", "collected")
"""The columns of rows besides their names and metrics."""
_MODEL = ("model", "dtype", "revision")


def facts(prefix: str, made: StudyTables, lacking: Mapping[str, frozenset[str]]) -> str:
    """The rows as written: files that have all families as they are, others joined by job.

    `lacking` says of each path which columns of its families it has not.
    """
    files = {families: found for families, found in made.files.items() if ESTIMATE not in families}
    every = (*_ROW, *raw_metrics({*METRIC_FAMILIES} - {ESTIMATE}))
    if not files:
        columns = ", ".join(f"NULL::{_type(name)} AS {name}" for name in every)
        return (
            f"CREATE VIEW {prefix}facts AS"
            f" SELECT 0::UINTEGER AS cell, 0::UINTEGER AS pair, {columns} WHERE false"
        )
    scans = " UNION ALL BY NAME ".join(_scan(made, found, lacking) for found in files.values())
    present = {name for families in files for name in raw_metrics(families)}
    columns = ", ".join(
        name if name in present or name in _ROW else f"NULL::{_type(name)} AS {name}" for name in every
    )
    if len(files) > 1:
        merged = ", ".join(f"{_merged(name, present)} AS {name}" for name in sorted(present))
        scans = (
            f"SELECT cell, pair, any_value(error) AS error, max(attempt) AS attempt, any_value(tier) AS tier,"
            f" any_value(collected) AS collected, {merged} FROM ({scans}) GROUP BY cell, pair"
        )
    return f"CREATE VIEW {prefix}facts AS SELECT cell, pair, {columns} FROM ({scans})"


def _merged(name: str, present: Collection[str]) -> str:
    """A metric of a job whose families lie in several files. What two families have is of the larger one."""
    if name in raw_metrics([LABELS]) and "logsumexp" in present:
        return f"max_by({name}, logsumexp IS NOT NULL)"
    return f"any_value({name})"


def estimates(prefix: str, made: StudyTables) -> str:
    """The rows of jobs that were estimated."""
    found = made.files.get((ESTIMATE,))
    columns = "cell, pair, error, attempt, estimate"
    source = (
        f"SELECT {columns} FROM ({_scan(made, found, {})})"
        if found
        else "SELECT 0::UINTEGER AS cell, 0::UINTEGER AS pair, NULL::VARCHAR AS error,"
        " 0::UTINYINT AS attempt, NULL::FLOAT AS estimate WHERE false"
    )
    return f"CREATE VIEW {prefix}estimates AS {source}"


def _scan(made: StudyTables, files: FilesOf, lacking: Mapping[str, frozenset[str]]) -> str:
    """The rows of files with the same families; a failed one that was retried gives way to its retry."""
    first, retries = (_read(made, paths, lacking) for paths in (files.first, files.retries))
    if not files.retries:
        return first
    is_replaced = f"EXISTS (FROM ({retries}) s WHERE s.cell = f.cell AND s.pair = f.pair)"
    return f"FROM ({first}) f WHERE error IS NULL OR NOT {is_replaced} UNION ALL BY NAME {retries}"


def _read(made: StudyTables, paths: Sequence[str], lacking: Mapping[str, frozenset[str]]) -> str:
    """All rows of files, NULL in the columns that some of them lack."""
    alike: dict[frozenset[str], list[str]] = {}
    for path in paths:
        alike.setdefault(lacking.get(path, frozenset()), []).append(path)
    return " UNION ALL BY NAME ".join(
        f"SELECT *{_renumbered(made, chosen)}"
        f"{''.join(f', NULL::{_type(name)} AS {name}' for name in sorted(names))}"
        f" FROM read_parquet([{', '.join(map(literal, chosen))}])"
        for names, chosen in alike.items()
    )


def _renumbered(made: StudyTables, paths: Sequence[str]) -> str:
    """Cells and pairs of several studies under numbers of one's own each; nothing of a study alone."""
    if not made.shifts:
        return ""
    shift = file_value([f"{made.shifts[path]}::UBIGINT" for path in paths])
    return f" REPLACE (cell + {shift} AS cell, pair + {shift} AS pair)"


def study_views(prefix: str, made: StudyTables, needs: QueryNeeds) -> list[str]:
    """The statements that make the views that are needed, each with a ``study`` column."""
    statements: list[str] = []
    if needs.sides:
        statements += sides(prefix, made, needs)
    if needs.has("results", "scores", "activations"):
        statements.append(results(prefix, _study(made, "c"), made))
        statements.append(
            f"CREATE VIEW {prefix}v_results AS SELECT * EXCLUDE (_collected, _pair_number) FROM {prefix}jobs"
        )
    if needs.has("scores"):
        statements.append(_scores(prefix, made))
    if needs.has("activations"):
        statements.append(_activations(prefix))
    return statements + [one for view, one in _others(prefix, made).items() if needs.has(view)]


def _study(made: StudyTables, table: str) -> str:
    """The column ``study``: of one study its name, of several what a table says."""
    return f"{table}.study" if made.study is None else f"{literal(made.study)} AS study"


def _others(prefix: str, made: StudyTables) -> dict[str, str]:
    """The statement of each view whose rows are no jobs that succeeded."""
    told = {table: _study(made, table) for table in ("l", "g", "c", "b")}
    own = "" if made.study is None else f"{_study(made, '')}, "
    batches = "path, file, lane" + (", study" if made.study is None else "")
    return {
        "cells": f"""CREATE VIEW {prefix}v_cells AS SELECT {told["l"]}, c.cell_id, {_model("l")},
            p.block{axis_columns(made, "p")}, c.resolved AS units, c.num_jobs, c.num_done
            FROM {prefix}cells c
            JOIN (SELECT DISTINCT point, cell FROM {prefix}grid) g ON g.cell = c.cell
            JOIN {prefix}points p ON p.point = g.point
            JOIN {prefix}lanes l ON l.lane = p.lane""",
        "screening": _screening(prefix, told["l"], made),
        "pairs": f"CREATE VIEW {prefix}v_pairs AS SELECT {told['g']}{_given(made)} FROM {prefix}pairs g",
        "inputs": f"""CREATE VIEW {prefix}v_inputs AS SELECT {told["l"]}, {_model("l")}, i.pair_id,
            {pair_column(made, "base", "g")} AS base, i.tokens, i.base_tokens, i.spans, i.label_ids,
            i.base_label_ids, i.kept, i.reason
            FROM {prefix}inputs i JOIN {prefix}pairs g ON g.given = i.given
            JOIN {prefix}lanes l ON l.lane = i.lane""",
        "runs": _runs(prefix, told["l"]),
        "failures": f"""CREATE VIEW {prefix}v_failures AS SELECT {told["c"]}, c.cell_id, p.pair_id,
            {_job_id()} AS job_id, {_model("c")}, c.block{axis_columns(made, "c")},
            {pair_column(made, "base", "p")} AS base, r.attempt,
            r.error->>'type' AS error_type, r.error->>'message' AS error_message
            FROM (
                SELECT cell, pair, error, attempt FROM {prefix}facts
                UNION ALL SELECT cell, pair, error, attempt FROM {prefix}estimates
            ) r JOIN {prefix}p p ON p.pair = r.pair
            JOIN {prefix}c c ON c.cell = r.cell AND c.class = p.class
            WHERE r.error IS NOT NULL""",
        "batches": f"""CREATE VIEW {prefix}v_batches AS SELECT {told["b"]}, b.path, b.file, {_model("l")},
            b.* EXCLUDE ({batches})
            FROM {prefix}batches b LEFT JOIN {prefix}lanes l ON l.lane::VARCHAR = b.lane""",
        "fits": f"""CREATE VIEW {prefix}v_fits AS SELECT {told["l"]}, f.fit, {_model("l")},
            f.* EXCLUDE (fit, lane) FROM {prefix}fits f JOIN {prefix}lanes l ON l.lane = f.lane""",
        "trainings": f"CREATE VIEW {prefix}v_trainings AS SELECT {own}* FROM {prefix}trained",
        "curves": f"CREATE VIEW {prefix}v_curves AS SELECT {own}* FROM {prefix}curves",
    }


def _runs(prefix: str, study: str) -> str:
    """The unintervened values; NULL where they need a label that is not there."""
    label, base = (_null(f"r.{role}_logit") for role in ("label", "base_label"))
    return f"""CREATE VIEW {prefix}v_runs AS SELECT {study}, {_model("l")}, i.pair_id,
        r.* EXCLUDE (lane, pair) REPLACE (
            {label} AS label_logit, {base} AS base_label_logit,
            nullif(r.label_rank, -1) AS label_rank, nullif(r.base_label_rank, -1) AS base_label_rank
        ),
        {label} - r.logsumexp AS label_logprob, {base} - r.logsumexp AS base_label_logprob,
        {label} - {base} AS logit_diff, t.token AS pred_token
        FROM {prefix}runs r JOIN {prefix}lanes l ON l.lane = r.lane
        JOIN (SELECT DISTINCT lane, pair, pair_id FROM {prefix}inputs WHERE kept) i
        ON i.lane = r.lane AND i.pair = r.pair
        LEFT JOIN {prefix}tokens t ON t.lane = r.lane AND t.id = r.pred_id"""


def _screening(prefix: str, study: str, made: StudyTables) -> str:
    """One row for each written cell of a screened study: what was estimated of it, and what was found."""
    label, base = (_null(f"r.{role}_logit") for role in ("label", "base_label"))
    run_label, run_base = (_null(f"q.base_run_{role}_logit") for role in ("label", "base_label"))
    return f"""CREATE VIEW {prefix}v_screening AS
        WITH e AS (
            SELECT e.cell, avg(abs(e.estimate::DOUBLE)) AS estimated_effect,
                   avg(e.estimate::DOUBLE) AS estimated_change, count(e.estimate) AS num_estimates
            FROM ({_estimated(prefix)}) e JOIN {prefix}cells c ON c.cell = e.cell
            SEMI JOIN {prefix}p p ON p.lane = c.lane AND p.pair = e.pair GROUP BY e.cell
        ), x AS (
            SELECT r.cell, {_answer(label, base)} - {_answer(run_label, run_base)} AS change
            FROM {prefix}facts r JOIN {prefix}cells c ON c.cell = r.cell
            JOIN {prefix}q q ON q.lane = c.lane AND q.pair = r.pair AND q.read_at = c.read
            WHERE r.error IS NULL
        ), f AS (
            SELECT cell, avg(abs(change)) AS exact_effect, avg(change) AS exact_change,
                   count(change) AS num_exact
            FROM x GROUP BY cell
        )
        SELECT {study}, c.cell_id, {_model("l")}, p.block{axis_columns(made, "p")}, s.selected, s.weight,
               e.estimated_effect, e.estimated_change, coalesce(e.num_estimates, 0) AS num_estimates,
               f.exact_effect, f.exact_change, coalesce(f.num_exact, 0) AS num_exact
        FROM {prefix}screening s JOIN {prefix}cells c ON c.cell = s.cell
        JOIN (SELECT DISTINCT point, cell FROM {prefix}grid) g ON g.cell = c.cell
        JOIN {prefix}points p ON p.point = g.point
        JOIN {prefix}lanes l ON l.lane = p.lane
        LEFT JOIN e ON e.cell = s.cell LEFT JOIN f ON f.cell = s.cell"""


def _estimated(prefix: str) -> str:
    """The estimates that there are; NaN stands for none."""
    estimate = f"{_null('estimate')} AS estimate"
    return f"SELECT cell, pair, {estimate} FROM {prefix}estimates WHERE error IS NULL"


def _answer(label: str, base_label: str) -> str:
    """Estimated quantity: the logit of the label less that of the base label, or of the one there is."""
    return f"coalesce({label} - {base_label}, {label}, -{base_label})::DOUBLE"


def _model(table: str) -> str:
    return ", ".join(f"{table}.{name}" for name in _MODEL)


def axis_columns(made: StudyTables, table: str, *, but: Collection[str] = ()) -> str:
    """The axes as written, each after a comma."""
    named = ((axis, column) for axis, column in made.axes.items() if axis not in but)
    return "".join(f", {_of(column, table)} AS {quoted(axis)}" for axis, column in named)


def _given(made: StudyTables) -> str:
    """All columns of the pairs as given, each after a comma."""
    names = public_names(made.given, own=made.given.keys() & PAIR_COLUMNS, reserved=("study",))
    return "".join(f", {pair_column(made, name, 'g')} AS {quoted(names[name])}" for name in made.given)


def pair_column(made: StudyTables, name: str, table: str) -> str:
    """A pair's column; NULL where the study has none."""
    return _of(made.given.get(name, "NULL"), table)


def _of(column: str, table: str) -> str:
    return column if column == "NULL" else f"{table}.{column}"


def results(prefix: str, study: str, made: StudyTables) -> str:
    """Wide view: one row for each written cell × pair that is done and did not fail.

    Its columns besides axes and those of a pair are ``studies.names.RESULT_COLUMNS``, and two of ours.
    """
    run_values = ", ".join(_run_columns(run) for run in ("base", "source"))
    located = made.tables["located"].num_rows > 0
    base, source = (
        f"coalesce(l.{side}_positions, c.{side}_positions)" if located else f"c.{side}_positions"
        for side in ("base", "source")
    )
    join = f"LEFT JOIN {prefix}located l ON l.pair = r.pair AND l.symbolic = c.symbolic" if located else ""
    is_screened = (ESTIMATE,) in made.files
    estimated = (
        f"LEFT JOIN ({_estimated(prefix)}) e ON e.cell = r.cell AND e.pair = r.pair" if is_screened else ""
    )
    return f"""CREATE VIEW {prefix}jobs AS
        SELECT {study}, c.cell_id, p.pair_id, {_job_id()} AS job_id, {_model("c")}, c.block{_sides(made)},
            {one_position(base) if located else "c.base_position"} AS base_position,
            {base} AS base_positions, {source} AS source_positions, p.base_tokens,
            {_metrics(OBSERVED, made)}, {run_values}, {_metrics(DERIVED, made)},
            {"e.estimate" if is_screened else "NULL::FLOAT AS estimate"}, r.tier, r.collected AS _collected,
            p.number AS _pair_number
        FROM {prefix}facts r
        JOIN {prefix}p p ON p.pair = r.pair
        JOIN {prefix}c c ON c.class = p.class AND c.cell = r.cell
        LEFT JOIN {prefix}q q ON q.lane = p.lane AND q.pair = r.pair AND q.read_at = c.read_at
        LEFT JOIN {prefix}tokens t ON t.lane = p.lane AND t.id = r.pred_id
        {join}
        {estimated}
        WHERE r.error IS NULL"""


def _metrics(metrics: Sequence[Metric], made: StudyTables) -> str:
    """Columns of the wide view that say how a job came out."""
    hit = "list_contains(p.label_ids, r.pred_id)" if made.several_labels else "r.pred_id = p.label_id"
    filled = {
        "label": _null("r.label_logit"),
        "base_label": _null("r.base_label_logit"),
        "is_label": hit,
        "near_tie": near_tie("r", "c.tie_bound"),
    }
    return ", ".join(f"{metric.sql.format(**filled)} AS {metric.name}" for metric in metrics)


def _sides(made: StudyTables) -> str:
    """The axes and the columns of the pairs, each after a comma. Task, variable, output: what a pair says."""
    said = said_by_pairs(made.given)
    names = names_in_results(made.given, made.axes)
    pairs = {names.get(name, name): name for name in (*PAIR_COLUMNS, *made.given)}
    given = (f", {pair_column(made, name, 'p')} AS {quoted(public)}" for public, name in pairs.items())
    return axis_columns(made, "c", but=said) + "".join(given)


def _activations(prefix: str) -> str:
    """Long form: what each job collected, vector by vector."""
    return f"""CREATE VIEW {prefix}v_activations AS
        SELECT * EXCLUDE (_one), _one.unit AS collected_unit,
            _one.token AS collected_token, _one.vector AS collected
        FROM (SELECT * EXCLUDE (_collected, _pair_number), unnest(_collected) AS _one FROM {prefix}jobs)"""


def _scores(prefix: str, made: StudyTables) -> str:
    """Long form: what each of the two label tokens got in each job."""
    values = ("label_logit", "label_logprob", "label_rank", "prob")
    dropped = ", ".join([*values, *(f"base_{value}" for value in values)])
    tokens = _label_tokens(made)
    return f"CREATE VIEW {prefix}v_scores AS " + " UNION ALL ".join(
        f"""SELECT * EXCLUDE ({dropped}), '{role}' AS role, {tokens[role]} AS token, {role}_logit AS logit,
            {role}_logprob AS logprob, {role}_rank AS rank, {prob} AS prob
            FROM {prefix}v_results WHERE {role}_id IS NOT NULL"""
        for role, prob in (("base_label", "base_prob"), ("label", "prob"))
    )


def _label_tokens(made: StudyTables) -> dict[str, str]:
    """The SQL of each label in one column of both: as text, where one is a list and the other is none."""
    kinds = {
        role: made.tables["pairs"].schema.field(made.given[role]).type
        for role in ("base_label", "label")
        if made.given.get(role, "NULL") != "NULL"
    }
    if len(kinds) < 2 or have_common_type([*kinds.values()]):
        return {"base_label": "base_label", "label": "label"}
    return {role: as_text(role, kind) for role, kind in kinds.items()}


def _run_columns(run: str) -> str:
    """The same of the unintervened run of the base, or of the source."""
    raw = {name: f"q.{run}_run_{name}" for name in ("logsumexp", "pred_id")}
    logits = {role: _null(f"q.{run}_run_{role}_logit") for role in ("label", "base_label")}
    return ", ".join(f"{sql.format(**raw, **logits)} AS {run}_run_{name}" for name, sql in RUN_VALUES.items())


def _job_id() -> str:
    return "left(sha256(c.cell_id::VARCHAR || '/' || p.pair_id::VARCHAR), 32)::UUID"


def near_tie(row: str, bound: str) -> str:
    """Whether a row's first choice could be another in a forward of another shape, by its lane's bound."""
    return f"{row}.margin <= {bound} * abs({row}.pred_logit)"


def _null(value: str) -> str:
    """NaN, which stands for "there is no such label", as NULL."""
    return f"nullif({value}, 'NaN'::FLOAT)"


def _type(column: str) -> str:
    if column in ("error", "tier"):
        return "VARCHAR"
    if column == "collected":
        return "STRUCT(unit UTINYINT, token INTEGER, vector FLOAT[])[]"
    if column == "attempt":
        return "UTINYINT"
    return {"int32": "INTEGER", "float32": "FLOAT"}[raw_metrics(METRIC_FAMILIES)[column].dtype]
