"""Promise: what is told at once of many rows, that they change nothing, is what each of their jobs would
tell; and the rows are gathered by what answers them."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import LAYERS, pairs, tiny, unit

from workers.engine.unchanged import Beginnings, UnchangedRows, is_unchanged, surely_unchanged
from workers.errors import SwapyardError
from workers.intervene.compile import compile_cell, resolve
from workers.intervene.model_resources import ModelResources, no_fits
from workers.vocabulary import Cell, Pair, Place

TOKENS = 5


def some_pairs(shared: tuple[int, ...]) -> list[Pair]:
    """One pair for each number of tokens with which its base and source both begin."""
    made = []
    for pair, num in zip(pairs(len(shared), lengths=(TOKENS, TOKENS + 1)), shared, strict=True):
        base, source = pair.tokens["base"], pair.tokens["source"]
        others = tuple((token + 1) % 50 for token in base)  # type: ignore[union-attr]
        mixed = (base[:num] + others[num:] + source)[: TOKENS + 1]  # type: ignore[operator]
        made.append(replace(pair, tokens={"base": base, "source": mixed}))
    return made


sites = st.sampled_from(
    ["block_output", "attention_input", "query_output", "mlp_output", "model.layers.1.mlp"]
)
positions = st.lists(st.integers(0, TOKENS), min_size=1, max_size=2).map(tuple)


@st.composite
def units(draw: st.DrawFn):  # type: ignore[no-untyped-def]
    site = draw(sites)
    layer = None if "." in site else draw(st.integers(0, LAYERS - 1))
    heads = draw(st.sampled_from([None, (0,)])) if site == "query_output" else None
    made = unit(
        site,
        layer,
        draw(positions),
        heads=heads,
        run=draw(st.sampled_from(["source", "source", "base", "zero", "source_2"])),
        operation=draw(st.sampled_from(["vanilla", "vanilla", "add"])),
    )
    if made.origin is not None and draw(st.booleans()):
        made = replace(made, origin=Place(site, layer, heads, draw(positions)))
    return made


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(units(), min_size=1, max_size=2).map(tuple),
    read=st.integers(0, TOKENS),
    shared=st.lists(st.integers(0, TOKENS), min_size=1, max_size=4).map(tuple),
)
def test_what_is_told_at_once_is_what_each_job_would_tell(changes, read, shared) -> None:  # type: ignore[no-untyped-def]
    model, cell, made = tiny("llama"), Cell(units=changes, read=read), some_pairs(shared)
    told = surely_unchanged(cell, Beginnings(made), model.facts)
    ready = compile_cell(cell, model, ModelResources(model, no_fits), {})
    for index, pair in enumerate(made):
        try:
            job = resolve(index, index, ready, pair)
        except SwapyardError:
            assert not told[index], "a job that fails is no answer"
        else:
            plain = all(
                "." not in u.place.site and u.origin and u.origin.position == u.place.position
                for u in changes
            )
            found = is_unchanged(job, cell, pair, model.facts)
            assert told[index] == found if plain else told[index] <= found


def test_rows_are_gathered_by_their_pair_and_what_they_read() -> None:
    made = some_pairs((5, 1, 5))
    found = UnchangedRows(made, tiny("llama").facts)
    early, late = (Cell(units=(unit("mlp_output", 1, (2,)),), read=read) for read in (3, 4))
    chunk = range(3)
    assert list(found.take(early, 0, chunk)) == [1]
    assert list(found.take(late, 3, chunk)) == [1]
    assert list(found.take(late, 6, [0, 1])) == [1]
    model = tiny("llama")
    found.add(resolve(7, 1, compile_cell(late, model, ModelResources(model, no_fits), {}), made[1]))
    gathered = {(one.job.pair, one.job.read, one.job.source_read): one.rows.tolist() for one in found.alike()}
    assert gathered == {(0, 3, 3): [0], (2, 3, 3): [2], (0, 4, 5): [3, 6], (2, 4, 5): [5], (1, 4, 5): [7]}


def test_of_a_span_the_jobs_are_asked() -> None:
    made = [replace(pair, spans={"base": {"name": (1, 2)}}) for pair in some_pairs((5, 5))]
    found = UnchangedRows(made, tiny("llama").facts)
    for cell in (
        Cell(units=(unit("mlp_output", 1, ("name",)),), read=4),
        Cell(units=(unit("mlp_output", 1, (2,)),), read="name"),
    ):
        assert list(found.take(cell, 0, range(2))) == [0, 1]
    assert not found.alike()


def test_a_common_beginning_ends_where_the_shorter_prompt_does() -> None:
    long, short = (1, 2, 3, 4), (1, 2)
    (pair,) = pairs(1)
    beginnings = Beginnings([replace(pair, tokens={"base": short, "source": long, "source_2": (9, 2)})])
    ends = [
        [bool(beginnings.shares(run, end)[0]) for end in range(4)] for run in ("base", "source", "source_2")
    ]
    assert np.array(ends).astype(int).tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 0, 0]]
