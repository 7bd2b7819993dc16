"""Promise: ``where`` decides by SQL which pairs a block is about, and pairs are of one class exactly where
they have the same cells: as many tokens, the same spans, blocks, and columns that the sweep reads."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan.pair_classes import passing_blocks
from orchestrator.plan.tables import Plan
from studies.problems import shown
from workers.errors import StudyError

from .world import planned, row, study

ROWS = [{"n": 1, "split": "train"}, {"n": 2, "split": "test"}, {"n": None, "split": "test"}, {"n": 4}]


def passing(*conditions: str | None) -> list[set[int]]:
    return [set(blocks) for blocks in passing_blocks(ROWS, conditions)]


@pytest.mark.parametrize(
    ("condition", "pairs"),
    [
        ("n > 1", [1, 3]),
        ("split = 'test' AND n IS NULL", [2]),
        ("split IS NULL", [3]),
        ("split in ('train') or n = 4 -- the last one", [0, 3]),
        ("false", []),
    ],
)
def test_a_condition_is_sql_over_the_pairs_columns(condition: str, pairs: list[int]) -> None:
    assert [at for at, blocks in enumerate(passing(None, condition)) if 1 in blocks] == pairs
    assert all(0 in blocks for blocks in passing(None, condition))


def test_columns_of_mixed_forms_can_be_asked_for() -> None:
    rows = [{"label": " Rome"}, {"label": [" Paris", " Lima"]}, {"label": 2**70}]
    assert passing_blocks(rows, ["label = ' Rome'"]) == [{0}, set(), set()]


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ("splitt = 'test'", ": no column 'splitt'; the pairs' columns are n, split; did you mean 'split'?"),
        (
            'split = "test"',
            ": no column 'test'; the pairs' columns are n, split; text stands in single quotes",
        ),
        ("split =", " cannot be answered: Parser Error: "),
        ("split > 3", " cannot be answered: Binder Error: "),
        ("n = 1; DROP TABLE pairs", " cannot be answered: Parser Error: "),
        ("true) FROM pairs UNION ALL SELECT (true", " cannot be answered: Parser Error: "),
        ("abs(" * 900 + "n" + ")" * 900 + " > 0", " cannot be answered: Parser Error: "),
        ("getenv('HOME') = split", " cannot be answered: Catalog Error: Scalar Function with name getenv"),
    ],
)
def test_what_is_no_condition_is_an_error_that_lists_the_columns(condition: str, text: str) -> None:
    with pytest.raises(StudyError) as caught:
        passing(condition)
    assert str(caught.value).startswith(f"where: {shown(condition)}{text}")
    assert "; the pairs' columns are n, split" in str(caught.value)


@pytest.mark.parametrize(
    ("condition", "named"),
    [
        ("random() < 0.5", "random(), a function whose answer may be another one each time"),
        ("now() > '2020-01-01'", "now(), "),
        ("current_date > '2020-01-01'", "current_date, a function of the clock"),
        ("current_timestamp IS NULL", "current_timestamp, "),
        ("uuid() = split", "uuid(), "),
        ("nextval('s') = n", "nextval(), "),
        ("ago(INTERVAL 1 DAY) IS NULL", "ago(), "),
        ("age('2020-01-01'::TIMESTAMP) IS NULL", "age(), "),
        ("n = (SELECT max(n) FROM pairs)", "a subquery"),
        ("EXISTS (FROM pairs)", "a subquery"),
        ("n = (SELECT count(*) FROM read_csv('/etc/passwd'))", "read_csv(), a table function"),
        ("split IN (FROM glob('*'))", "glob(), a table function"),
        ("glob('*') = split", "glob(), a table function"),
        ("count(*) > 1", "count(), an aggregate"),
        ("n = max(n)", "max(), an aggregate"),
        ("row_number() OVER () = 1", "row_number(), a window function"),
        ("sum(n) OVER () = 1", "sum(), a window function"),
        ("len([random() FOR x IN [1]]) = n", "random(), "),
        ("n = ?", "a parameter"),
    ],
)
def test_only_deterministic_expressions_of_one_row_are_conditions(condition: str, named: str) -> None:
    with pytest.raises(StudyError) as caught:
        passing(condition)
    assert str(caught.value).startswith(f"where: {condition!r}: ")
    assert named in str(caught.value)
    assert str(caught.value).endswith(
        "not allowed; a condition is an expression of one row that always gives the same answer"
    )


def test_functions_of_one_row_may_be_called() -> None:
    allowed = "lower(split) LIKE 'te%' AND coalesce(n, 0) IN (0, 2) AND nullif(n, 7) IS DISTINCT FROM 9"
    assert passing(allowed) == [set(), {0}, {0}, set()]
    assert passing("strftime(make_date(2020, 1, n::INT), '%d') = '01'") == [{0}, set(), set(), set()]
    assert passing("pairs.n = 1 AND main.pairs.split = 'train'") == [{0}, set(), set(), set()]
    assert passing("list_sum(list_filter([n, 3], lambda x: x > 1)) = 7") == [set(), set(), set(), {0}]


def test_every_wrong_condition_is_told_with_whose_it_is() -> None:
    with pytest.raises(StudyError) as caught:
        passing_blocks(ROWS, ["a = 1", None, "random() > 0"], ["first", "second", "third"])
    assert [line.split(": ")[:2] for line in str(caught.value).splitlines()] == [
        ["first", "where"],
        ["third", "where"],
    ]


def classes(plan: Plan) -> list[int]:
    return list(plan.tables["inputs"]["class"].to_pylist())


def num_cells(plan: Plan) -> list[int]:
    """How many cells each pair has."""
    kinds = plan.tables["grid"]["class"].to_pylist()
    return [kinds.count(kind) for kind in classes(plan)]


ALL = "[{site: mlp_output, layer: 0, positions: all}]"
SHORT = {"base": "The capital is", "source": "The capital is"}


def test_pairs_of_one_length_are_one_class(tiny_folder: Path) -> None:
    rows = [row("Spain", "Italy"), {**row("Italy", "Peru"), **SHORT}, row("France", "Peru")]
    plan = planned(study(tiny_folder, rows, ALL))
    assert classes(plan) == [1, 0, 1]
    assert num_cells(plan) == [5, 3, 5]


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("[{site: mlp_output, layer: 0, positions: spans.last}]", [1, 0]),
        ("[{site: mlp_output, layer: 0, position: 0}]", [0, 0]),
    ],
)
def test_spans_make_classes_only_where_the_sweep_uses_them(
    tiny_folder: Path, sweep: str, expected: list[int]
) -> None:
    spans = {"span.a": "Spain", "source.span.a": "Italy"}
    more = {"span.b": "capital", "source.span.b": "capital"}
    rows = [row("Spain", "Italy", **spans, **more), row("Spain", "Italy", **spans)]
    found = classes(planned(study(tiny_folder, rows, sweep)))
    assert [kind != found[1] for kind in found] == [kind != expected[1] for kind in expected]


@pytest.mark.parametrize("values", [(1, 3), ("1:3", "2:4"), ([0, 1], [2, 3])])
def test_a_column_that_the_sweep_reads_makes_classes(tiny_folder: Path, values: tuple[Any, Any]) -> None:
    rows = [row("Spain", "Italy", at=values[0]), row("Italy", "Peru", at=values[1])]
    plan = planned(study(tiny_folder, rows, "[{site: mlp_output, layer: 0, position: $pair.at}]"))
    assert sorted(classes(plan)) == [0, 1]
    assert plan.num_jobs == 2


def test_a_block_is_about_its_own_pairs_only(tiny_folder: Path) -> None:
    rows = [row("Spain", "Italy", split="test"), row("Italy", "Peru", split="train")]
    sweep = f"[{ALL[1:-1]}, {{site: block_output, layer: 1, position: 0, where: split = 'test'}}]"
    assert num_cells(planned(study(tiny_folder, rows, sweep))) == [6, 5]
