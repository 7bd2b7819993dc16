"""Comparing what the views show now with what they showed when the golden studies were made.

Columns and views that came later may be there; what was there must be there, and be what it was.
"""

__all__ = [
    "assert_ended_alike",
    "assert_nothing_ran_twice",
    "assert_rows_are_left",
    "assert_shown_as_before",
    "same_columns",
]

from collections import Counter
from collections.abc import Mapping

import numpy as np

from tests.golden.dumps import Dump, exact

Views = Mapping[str, Dump]

TOLERANCE = 1e-5
"""Of the largest number of its kind: what another shape of a forward, or another machine, may change."""
TRAINED_TOLERANCE = 1e-4
"""The same after steps of an optimiser, each of which makes more of the difference of the one before."""

ROWS = ("results", "scores", "activations", "failures", "runs", "curves", "batches", "pairs", "inputs")
"""The views whose rows only become more when a study goes on."""
HOW = {"fits": ("seconds",), "trainings": ("artifact",)}
"""Columns that say how something was made, and not what it is; `tier` is one in every view."""


def assert_shown_as_before(now: Views, before: Views) -> None:
    """Every view, column and row is there, and equal to the last bit."""
    for view, dump in before.items():
        found = same_columns(view, now, dump)
        assert len(found.rows) == len(dump.rows), f"{view} has {len(found.rows)} rows, not {len(dump.rows)}"
        if exact(found.rows) != exact(dump.rows):
            # Which columns: the rows themselves would be pages.
            wrong = [name for name in dump.types if _values(found, name) != _values(dump, name)]
            raise AssertionError(f"{view} shows other values in {', '.join(wrong) or 'the same columns'}")


def assert_rows_are_left(now: Views, before: Views) -> None:
    """What was measured is still shown, bit for bit, each row as often as it was."""
    for view in ROWS:
        found = same_columns(view, now, before[view])
        lost = Counter(map(exact, before[view].rows)) - Counter(map(exact, found.rows))
        assert not lost, f"{view}: {lost.total()} rows are not what they were, such as {next(iter(lost))}"


def assert_nothing_ran_twice(now: Views, expected: Views) -> None:
    """As many rows were written as the other went with, and no job is shown twice."""
    assert _written(now) == _written(expected)
    for view in ("results", "failures"):
        jobs, wanted = (Counter(views[view].columns["job_id"]) for views in (now, expected))
        assert jobs == wanted, view


def assert_ended_alike(now: Views, expected: Views, *, tolerance: float = TOLERANCE) -> None:
    """The same rows in every view but `batches`; floats may differ in their last digits."""
    # A divergence is small and comes from logits that are not: it is as exact as they are.
    largest = max((_largest(dump, name) for dump in expected.values() for name in _logits(dump)), default=0)
    for view, dump in expected.items():
        if view == "batches":
            continue
        how = {"tier", *HOW.get(view, ())}
        floats = [name for name, kind in dump.types.items() if _is_float(kind) and name not in how]
        others = [name for name in dump.types if name not in {*floats, *how}]
        found = same_columns(view, now, dump).select([*others, *floats])
        wanted = dump.select([*others, *floats])
        for name in others:
            assert _values(found, name) == _values(wanted, name), f"{view}.{name}"
        for name in floats:
            scale = max(1.0, largest, _largest(wanted, name))
            _assert_close(found, wanted, name, tolerance * scale, view)


def same_columns(view: str, now: Views, before: Dump) -> Dump:
    """A view as it is now, with the columns that it had."""
    assert view in now, f"there is no view {view} any more"
    lacking = before.types.keys() - now[view].types.keys()
    assert not lacking, f"{view} has lost {', '.join(sorted(lacking))}"
    found = now[view].select(list(before.types))
    assert found.types == before.types, f"{view} has columns of other types"
    return found


def _assert_close(found: Dump, wanted: Dump, name: str, atol: float, view: str) -> None:
    """Two columns of floats, or of lists of floats, whose rows stand in the same order."""
    for one, other in zip(found.columns[name], wanted.columns[name], strict=True):
        ours, theirs = (np.asarray([np.nan] if it is None else it, np.float64) for it in (one, other))
        assert ours.shape == theirs.shape and (one is None) == (other is None), f"{view}.{name}"
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=f"{view}.{name}")


def _values(dump: Dump, name: str) -> list[str]:
    return [exact(value) for value in dump.columns[name]]


def _is_float(kind: str) -> bool:
    return kind in ("FLOAT", "DOUBLE", "FLOAT[]")


def _logits(dump: Dump) -> list[str]:
    return [name for name in dump.types if name.endswith("label_logit")]


def _largest(dump: Dump, name: str) -> float:
    """The largest finite size in a column; 0 where there is none."""
    found = [
        np.abs(np.asarray(value, np.float64)).max(initial=0)
        for value in dump.columns[name]
        if value is not None
    ]
    return max(filter(np.isfinite, found), default=0.0)


def _written(views: Views) -> dict[str, int]:
    """The rows of all parts, by the metrics that they hold, and whether they are retries."""
    columns = views["batches"].columns
    written: Counter[str] = Counter()
    for families, attempt, rows in zip(
        columns["families"], columns["attempt"], columns["num_rows"], strict=True
    ):
        written[f"{families} {attempt}"] += rows
    return dict(written)
