"""Labels of axes, facets and colour bars."""

__all__ = ["caption", "facet_text", "key_text", "label_of", "position_texts", "tick_texts"]

import json
from collections.abc import Mapping, Sequence

import duckdb

from orchestrator.plots.data import Facet, Grid, GridAxis, Key, Value
from orchestrator.query.statements import fetch
from studies.language.results import Plot
from workers.metrics import DERIVED, OBSERVED

_WORDS = {
    "base_position": "position in the base prompt",
    **{metric.name: metric.title for metric in (*OBSERVED, *DERIVED) if metric.title is not None},
    "base_run_logit_diff": "logit difference of the base run",
    "layer": "layer",
    "logit_diff - base_run_logit_diff": "change of the logit difference",
    "recovered": "share of the effect recovered",
    "token": "token",
}
"""Columns in words; any other is called what it is."""

_MAX_TOKEN = 14


def label_of(column: str) -> str:
    """A column or expression as an axis or a colour bar names it."""
    return _WORDS.get(column.strip(), column)


def key_text(key: Key) -> str:
    """Several values as one label, such as ``3 · mlp_output``."""
    return " · ".join("none" if value is None else _value_text(value) for value in key)


def facet_text(grid: Grid, facet: Facet) -> str:
    """A facet's title: the values of its columns, and what is shown where facets differ in it."""
    parts = [
        f"{column} {_value_text(value)}" if isinstance(value, int | float) else key_text((value,))
        for column, value in zip(grid.facet_columns, facet.key, strict=True)
    ]
    return " · ".join([*parts, label_of(facet.value)] if grid.num_values > 1 else parts)


def tick_texts(axis: GridAxis, positions: Mapping[Value, str]) -> list[str]:
    """A label for each place of an axis; with tokens or spans where its column is the base's position."""
    if axis.columns in (("base_position",), ("position",)):
        return [positions.get(key[0], key_text(key)) for key in axis.keys]
    return [key_text(key) for key in axis.keys]


def position_texts(
    connection: duckdb.DuckDBPyConnection, plot: Plot, positions: Sequence[int]
) -> dict[Value, str]:
    """A label for each of some base positions: ``0 The`` where all pairs drawn have that token there,
    ``3 ⟨country⟩`` where all have that span there, ``3`` where the runs have no words, and ``3 …`` otherwise.

    Where there are cells of that position alone, it is their pairs that are looked at.
    """
    if plot.view not in ("results", "scores") or not positions:
        return {}
    where = f" AND ({plot.where})" if plot.where else ""
    token = "base_tokens[place + 1]"
    asked = (
        "SELECT place, min({token}), min({token}) = max({token}) AND count({token}) = count(*) FROM ({rows})"
        " GROUP BY place"
    )
    alone = (
        f"SELECT base_position AS place, base_tokens FROM {plot.view} WHERE base_position IS NOT NULL{where}"
    )
    found = fetch(connection, asked.format(token=token, rows=alone))
    if lacking := sorted({*positions} - {at for at, *_ in found}):
        prompts_sql = f"SELECT DISTINCT base_tokens FROM {plot.view} WHERE true{where}"
        rows = f"SELECT unnest({lacking}) AS place, base_tokens FROM ({prompts_sql})"
        rows = f"FROM ({rows}) WHERE place < len(base_tokens)"
        found += fetch(connection, asked.format(token=token, rows=rows))
    is_clear = all(shared or text is None for _, text, shared in found)
    prompts = [] if is_clear else _prompts(connection, f"{plot.view} WHERE true{where}")
    return {at: _position_text(at, text, shared, prompts) for at, text, shared in found}


def caption(grid: Grid, plot: Plot) -> str:
    """Number of rows that each value is of, one or from the least to the most, and which rows."""
    counts = [int(n) for facet in grid.facets for n in facet.counts.ravel() if n]
    if not counts:
        return "no values"
    low, high = min(counts), max(counts)
    number = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    where = f", where {_one_line(plot.where)}" if plot.where else ""
    ties = f", {grid.num_near_ties:,} near ties" if grid.num_near_ties else ""
    return f"n = {number} {'pairs' if grid.of_pairs else 'rows'} each{ties}{where}"


def _value_text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else _one_line(str(value))


def _token_text(token: str) -> str:
    """A token so that it can be seen: without its blanks, unless it is nothing else."""
    text = _one_line(token.strip(" ") or "␣" * len(token))
    return text if len(text) <= _MAX_TOKEN else text[: _MAX_TOKEN - 1] + "…"


def _one_line(text: str) -> str:
    return "".join(
        "⏎" if c == "\n" else c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


Prompt = tuple[int, Mapping[str, tuple[int, int]]]
"""Number of tokens of a base prompt, and its spans."""


def _prompts(connection: duckdb.DuckDBPyConnection, rows: str) -> list[Prompt]:
    """The distinct shapes of the base prompts of these rows of a view."""
    found = fetch(
        connection,
        "SELECT DISTINCT len(base_tokens), spans FROM inputs"
        f" WHERE (study, pair_id) IN (SELECT (study, pair_id) FROM {rows})",
    )
    return [(length, json.loads(spans).get("base", {})) for length, spans in found]


def _position_text(at: int, text: str | None, shared: bool, prompts: Sequence[Prompt]) -> str:
    """`text` is a token that is there in some run, in all of them if `shared`; None if no run has words."""
    if text is None:
        return str(at)
    return f"{at} {_token_text(text) if shared else _span_text(at, prompts)}"


def _span_text(at: int, prompts: Sequence[Prompt]) -> str:
    """The span that covers the position in every prompt that is long enough to have it."""
    covering = [
        {name for name, (start, end) in spans.items() if start <= at < end}
        for length, spans in prompts
        if length > at
    ]
    shared = set.intersection(*covering) if covering else set()
    return f"⟨{min(shared)}⟩" if shared else "…"
