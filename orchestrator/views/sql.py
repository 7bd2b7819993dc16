"""The SQL of one study's views. Every name of a study's own tables begins with its prefix."""

__all__ = ["STUDY_VIEWS", "facts", "results", "study_views"]

from collections.abc import Mapping, Sequence

from orchestrator.store import METRIC_COLUMNS
from orchestrator.views.tables import StudyTables

STUDY_VIEWS = ("results", "scores", "cells", "pairs", "inputs", "runs", "failures", "batches")

_RUN_VALUES = ("label_logit", "base_label_logit", "logsumexp", "label_rank", "base_label_rank", "pred_id")
_OWN_COLUMNS = frozenset({"lane", "given", "pair", "class", "point", "cell", "study"})
"""Internal columns, which a given pair's column of the same name does not hide."""


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def facts(prefix: str, root: str, parts: Mapping[tuple[str, ...], Sequence[str]]) -> str:
    """The rows as written: parts that have all families as they are, others joined by job."""
    every = ("error", "attempt", "tier", *(c for names in METRIC_COLUMNS.values() for c in names))
    if not parts:
        columns = ", ".join(f"NULL::{_type(name)} AS {name}" for name in every)
        return (
            f"CREATE VIEW {prefix}facts AS"
            f" SELECT 0::UINTEGER AS cell, 0::UINTEGER AS pair, {columns} WHERE false"
        )
    scans = " UNION ALL BY NAME ".join(
        f"SELECT * FROM read_parquet([{', '.join(literal(f'{root}/{path}') for path in paths)}])"
        for paths in parts.values()
    )
    present = {c for families in parts for f in families for c in METRIC_COLUMNS[f]}
    columns = ", ".join(
        name if name in present or name in ("error", "attempt", "tier") else f"NULL::{_type(name)} AS {name}"
        for name in every
    )
    if len(parts) > 1:
        merged = ", ".join(f"any_value({name}) AS {name}" for name in sorted(present))
        scans = (
            f"SELECT cell, pair, any_value(error) AS error, max(attempt) AS attempt, any_value(tier) AS tier,"
            f" {merged} FROM ({scans}) GROUP BY cell, pair"
        )
    return f"CREATE VIEW {prefix}facts AS SELECT cell, pair, {columns} FROM ({scans})"


def study_views(prefix: str, name: str, made: StudyTables) -> list[str]:
    """The statements that make one study's views, each with a ``study`` column."""
    study = f"{literal(name)} AS study"
    axes = [c for c in made.tables["points"].column_names if c not in ("point", "lane", "block")]
    return [
        _pair_sides(prefix, made, axes),
        _cell_sides(prefix, axes),
        _run_sides(prefix),
        results(prefix, study, made, axes),
        _scores(prefix),
        f"""CREATE VIEW {prefix}v_cells AS SELECT {study}, c.cell_id, p.* EXCLUDE (point, lane),
            c.resolved AS units, c.num_jobs, c.num_done
            FROM {prefix}cells c
            JOIN (SELECT DISTINCT point, cell FROM {prefix}grid) g USING (cell)
            JOIN {prefix}points p USING (point)""",
        f"CREATE VIEW {prefix}v_pairs AS SELECT {study}, * FROM {prefix}pairs",
        f"CREATE VIEW {prefix}v_inputs AS SELECT {study}, * FROM {prefix}inputs",
        f"""CREATE VIEW {prefix}v_runs AS SELECT {study}, i.pair_id, i.given, r.*,
            r.label_logit - r.logsumexp AS label_logprob,
            r.base_label_logit - r.logsumexp AS base_label_logprob,
            r.label_logit - r.base_label_logit AS logit_diff, t.token AS pred_token
            FROM {prefix}runs r JOIN {prefix}inputs i USING (lane, pair)
            LEFT JOIN {prefix}tokens t ON t.lane = r.lane AND t.id = r.pred_id""",
        f"""CREATE VIEW {prefix}v_failures AS SELECT {study}, c.cell_id, p.pair_id,
            {_job_id()} AS job_id, c.* EXCLUDE ({_hidden_cell()}), p.base, r.attempt,
            r.error->>'type' AS error_type, r.error->>'message' AS error_message
            FROM {prefix}facts r JOIN {prefix}p p USING (pair)
            JOIN {prefix}c c ON c.cell = r.cell AND c.class = p.class
            WHERE r.error IS NOT NULL""",
        f"CREATE VIEW {prefix}v_batches AS SELECT {study}, * FROM {prefix}batches",
    ]


def _pair_sides(prefix: str, made: StudyTables, axes: Sequence[str]) -> str:
    given = [
        quoted(c)
        for c in made.tables["pairs"].column_names
        if c not in _OWN_COLUMNS and (c not in axes or c == "task")
    ]
    for column in ("base", "source", "base_label", "source_label", "label"):
        if column not in made.tables["pairs"].column_names:
            given.append(f"NULL::VARCHAR AS {column}")
    return f"""CREATE TABLE {prefix}p AS
        SELECT i.lane, i.pair, i.class, i.given, i.pair_id, i.base_tokens, i.label_ids, i.base_label_ids,
               i.label_ids[1] AS label_id, i.base_label_ids[1] AS base_label_id,
               {", ".join(given)}
        FROM {prefix}inputs i JOIN {prefix}pairs g USING (given) WHERE i.kept"""


def _cell_sides(prefix: str, axes: Sequence[str]) -> str:
    named = "".join(f", p.{quoted(axis)}" for axis in axes)
    return f"""CREATE TABLE {prefix}c AS
        SELECT g.class, g.cell, p.lane, p.block{named}, c.cell_id, c.symbolic, c.read AS read_at,
               c.base_positions, c.source_positions
        FROM {prefix}grid g JOIN {prefix}points p USING (point) JOIN {prefix}cells c USING (cell)"""


def _run_sides(prefix: str) -> str:
    """One row for each lane, pair and read, with the base run's and the source run's values."""
    columns = ", ".join(
        f"any_value({value}) FILTER (run = '{run}') AS {run}_run_{value}"
        for run in ("base", "source")
        for value in _RUN_VALUES
    )
    return f"""CREATE TABLE {prefix}q AS
        SELECT lane, pair, read AS read_at, {columns} FROM {prefix}runs GROUP BY ALL"""


def results(prefix: str, study: str, made: StudyTables, axes: Sequence[str]) -> str:
    """The wide view: one row for each written cell × pair that is done and did not fail."""
    label_hit = "list_contains(p.label_ids, r.pred_id)" if made.several_labels else "r.pred_id = p.label_id"
    run_values = ", ".join(_run_columns(run) for run in ("base", "source"))
    located = made.tables["located"].num_rows > 0
    base, source = (
        f"coalesce(l.{side}_positions, c.{side}_positions)" if located else f"c.{side}_positions"
        for side in ("base", "source")
    )
    join = f"LEFT JOIN {prefix}located l ON l.pair = r.pair AND l.symbolic = c.symbolic" if located else ""
    taken = ", ".join(
        (
            "lane",
            "pair",
            "class",
            "given",
            "pair_id",
            "base_tokens",
            "label_ids",
            "base_label_ids",
            "label_id",
            "base_label_id",
        )
    )
    named = "".join(f", c.{quoted(axis)}" for axis in axes if axis != "task" or "task" not in _given(made))
    return f"""CREATE VIEW {prefix}v_results AS
        SELECT {study}, c.cell_id, p.pair_id, {_job_id()} AS job_id, c.block{named},
            p.* EXCLUDE ({taken}),
            CASE WHEN len({base}) = 1 THEN {base}[1] END AS base_position,
            {base} AS base_positions, {source} AS source_positions, p.base_tokens,
            p.label_id, {_null("r.label_logit")} AS label_logit,
            {_null("r.label_logit")} - r.logsumexp AS label_logprob, nullif(r.label_rank, -1) AS label_rank,
            p.base_label_id, {_null("r.base_label_logit")} AS base_label_logit,
            {_null("r.base_label_logit")} - r.logsumexp AS base_label_logprob,
            nullif(r.base_label_rank, -1) AS base_label_rank,
            r.pred_id, t.token AS pred_token, r.pred_logit - r.logsumexp AS pred_logprob, r.margin,
            {_null("r.kl_base")} AS kl_base, {_null("r.kl_source")} AS kl_source, NULL::VARCHAR AS generated,
            {run_values},
            CASE WHEN p.label_id IS NOT NULL THEN ({label_hit})::DOUBLE END AS iia,
            CASE WHEN p.label_ids <> p.base_label_ids
                 THEN ({_null("r.label_logit")} > {_null("r.base_label_logit")})::DOUBLE END AS flip,
            (r.pred_id <> q.base_run_pred_id)::DOUBLE AS changed,
            ({_null("r.label_logit")} - {_null("r.base_label_logit")})::DOUBLE AS logit_diff,
            exp(({_null("r.label_logit")} - r.logsumexp)::DOUBLE) AS prob,
            exp(({_null("r.base_label_logit")} - r.logsumexp)::DOUBLE) AS base_prob,
            r.tier
        FROM {prefix}facts r
        JOIN {prefix}p p ON p.pair = r.pair
        JOIN {prefix}c c ON c.class = p.class AND c.cell = r.cell
        LEFT JOIN {prefix}q q ON q.lane = p.lane AND q.pair = r.pair AND q.read_at = c.read_at
        LEFT JOIN {prefix}tokens t ON t.lane = p.lane AND t.id = r.pred_id
        {join}
        WHERE r.error IS NULL"""


def _given(made: StudyTables) -> list[str]:
    return list(made.tables["pairs"].column_names)


def _scores(prefix: str) -> str:
    """Long form: what each of the two label tokens got in each job."""
    values = ("label_logit", "label_logprob", "label_rank", "prob")
    dropped = ", ".join([*values, *(f"base_{value}" for value in values)])
    return f"CREATE VIEW {prefix}v_scores AS " + " UNION ALL ".join(
        f"""SELECT * EXCLUDE ({dropped}), '{role}' AS role, {role} AS token, {role}_logit AS logit,
            {role}_logprob AS logprob, {role}_rank AS rank, {prob} AS prob
            FROM {prefix}v_results WHERE {role}_id IS NOT NULL"""
        for role, prob in (("base_label", "base_prob"), ("label", "prob"))
    )


def _run_columns(run: str) -> str:
    label, base = (f"q.{run}_run_{role}_logit" for role in ("label", "base_label"))
    return f"""{_null(label)} AS {run}_run_label_logit, {_null(base)} AS {run}_run_base_label_logit,
        ({_null(label)} - {_null(base)})::DOUBLE AS {run}_run_logit_diff,
        exp(({_null(label)} - q.{run}_run_logsumexp)::DOUBLE) AS {run}_run_prob,
        exp(({_null(base)} - q.{run}_run_logsumexp)::DOUBLE) AS {run}_run_base_prob,
        q.{run}_run_pred_id"""


def _job_id() -> str:
    return "left(sha256(c.cell_id::VARCHAR || '/' || p.pair_id::VARCHAR), 32)::UUID"


def _hidden_cell() -> str:
    return "class, cell, lane, symbolic, read_at, base_positions, source_positions, cell_id"


def _null(value: str) -> str:
    """NaN, which stands for "there is no such label", as NULL."""
    return f"nullif({value}, 'NaN'::FLOAT)"


def _type(column: str) -> str:
    if column in ("error", "tier"):
        return "VARCHAR"
    if column == "attempt":
        return "UTINYINT"
    return "INTEGER" if column.endswith(("_id", "_rank")) else "FLOAT"
