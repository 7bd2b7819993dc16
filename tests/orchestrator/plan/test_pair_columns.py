"""Promise: what runs are given comes back from a plan's tables as it went in, vectors bit by bit."""

import io
import math
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.encode import carried_table
from orchestrator.plan.pair_columns import given_column, prompt_columns, prompts_of
from orchestrator.plan.tables import Plan
from workers.vocabulary import Pair, Prompt, Vectors

RUNS = ("base", "source", "source_2")
ids = st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple)


@st.composite
def vectors(draw: st.DrawFn) -> Vectors:
    num_tokens, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    number = st.floats(width=32, allow_nan=False)
    return Vectors.of([[draw(number) for _ in range(width)] for _ in range(num_tokens)])


prompts: st.SearchStrategy[Prompt] = st.one_of(ids, vectors())
rows = st.lists(st.dictionaries(st.sampled_from(RUNS), prompts, min_size=1), min_size=1, max_size=5)


def reread(table: pa.Table) -> pa.Table:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return pq.ParquetFile(io.BytesIO(sink.getvalue()), pre_buffer=False).read(use_threads=False)


@given(rows)
def test_prompts_come_back(given_rows: list[dict[str, Prompt]]) -> None:
    table = reread(pa.table(prompt_columns(given_rows)))
    assert prompts_of(table) == given_rows
    assert prompts_of(table.slice(1)) == given_rows[1:]


def test_a_study_without_vectors_has_no_column_for_them() -> None:
    assert list(prompt_columns([{"base": (1, 2)}])) == ["tokens"]


def test_vectors_that_were_given_are_a_column_of_numbers() -> None:
    column = given_column([None, Vectors.of([[0.5, 1.0], [2.0, 3.0]])])
    assert column.type == pa.list_(pa.list_(pa.float32()))
    assert column.to_pylist() == [None, [[0.5, 1.0], [2.0, 3.0]]]


@given(prompts)
def test_a_pair_that_only_earlier_tiles_name_comes_back_too(prompt: Prompt) -> None:
    pair = Pair(7, {"base": prompt, "source": (1, 2)}, {"base": {"x": (0, 1)}}, (3,), ())
    plan = Plan(head={}, tables={"carried": reread(carried_table({}, {7: pair}))})
    assert plan.carried_pairs == {7: pair}


def test_vectors_are_cut_and_told_apart_as_lists_are() -> None:
    rows: list[list[float]] = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    whole = Vectors.of(rows)
    for cut in (slice(0, 2), slice(1, 3), slice(2, 2), slice(None, -1)):
        expected: Any = rows[cut]
        assert len(whole[cut]) == len(expected)
        assert whole[cut].data == b"".join(Vectors.of([row]).data for row in expected)
    assert whole == Vectors.of(rows) and hash(whole) == hash(Vectors.of(rows))
    # The same numbers in another shape, and the two zeros, are not the same.
    sideways = Vectors.of([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    others = [sideways, Vectors.of([[-0.0, 1.0], *rows[1:]])]
    assert all(other != whole and other.digest != whole.digest for other in others)
    assert Vectors.of([[0.1]]) == Vectors.of([[math.nextafter(0.1, 1)]])


def test_mixed_numbers_and_texts_become_text_as_they_always_did() -> None:
    assert given_column([1, "a", [2], None]).to_pylist() == ["1", "a", "[2]", None]
