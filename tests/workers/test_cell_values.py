"""Promise: noise, vectors and rotations of fits, and values of other intervened runs give what loops over a
decoder written out by hand give, to 1e-5 of the largest logit, however jobs are packed and ordered."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from tiny import VOCAB, pairs, swap, tiny, unit
from torch import Tensor

from workers.engine.engine import Batch, BatchResult, Engine
from workers.errors import RunError
from workers.intervene.compile import example_of
from workers.intervene.model_resources import ModelResources, no_fits
from workers.intervene.subspaces import LowRankRotation, Rotation, Subspace
from workers.intervene.values import Drawn, draw
from workers.vocabulary import Cell, CellUnit, NamedRun, Pair, Place

KINDS = tuple(reference.NETWORKS)
ALL = (0, 1, 2, 3, 4)
WIDTH, HEAD = 32, 8

torch.manual_seed(0)
FITS: dict[str, Subspace | Tensor] = {
    "whole": Rotation(WIDTH, seed=1),
    "head": Rotation(HEAD, seed=2),
    "vector": torch.randn(WIDTH),
    "two heads": torch.randn(2 * HEAD),
    "each token": torch.randn(len(ALL), WIDTH),
}


def engine(kind: str, **more: Any) -> Engine:
    return Engine(
        tiny(kind), capture_budget_bytes=1 << 30, fits=FITS.__getitem__, **{"shortcut": False, **more}
    )


def run(kind: str, cells: Sequence[Cell], some: Sequence[Pair], **more: Any) -> BatchResult:
    batch = Batch(cells=list(enumerate(cells)), pairs=some, families=("logits", "kl"))
    outcome = engine(kind, **more).run(batch)
    assert [e for e in outcome.columns["error"] if e] == []
    return outcome


def check(kind: str, cells: Sequence[Cell], some: Sequence[Pair]) -> BatchResult:
    """The engine's rows equal the reference's."""
    model, fits = tiny(kind), {n: f.weight if isinstance(f, Rotation) else f for n, f in FITS.items()}
    outcome = run(kind, cells, some)
    rows = [(cell, pair) for cell in cells for pair in some]
    for row, (cell, pair) in enumerate(rows):

        def noise(one: CellUnit, token: int, width: int, pair: Pair = pair) -> Tensor:
            place = one.place
            tap = model.target(place.site, place.layer, None, None).tap
            deviation = one.scale * float(model.module.get_input_embeddings().weight.std(correction=0))
            return draw(Drawn(deviation, one.seed, example_of(pair), (token,)), tap, width)[0]

        with torch.no_grad():
            logits = reference.intervene(kind, model.module, cell, pair, fits, noise)
        tolerance = 1e-5 * float(logits.abs().max())
        columns = outcome.columns
        assert columns["logsumexp"][row] == pytest.approx(float(logits.logsumexp(0)), abs=tolerance)
        label = float(logits[list(pair.label_ids)].logsumexp(0))
        assert columns["label_logit"][row] == pytest.approx(label, abs=tolerance)
    return outcome


def noise(*position: int | str, scale: float = 3.0, seed: int = 0, site: str = "block_input") -> CellUnit:
    return CellUnit(Place(site, 0, None, position), None, "add", "noise", None, scale=scale, seed=seed)


def vector(site: str, layer: int, *position: int, fit: str = "vector", **more: Any) -> CellUnit:
    place = Place(site, layer, more.pop("heads", None), position)
    return CellUnit(
        place, more.pop("dims", None), more.pop("operation", "add"), "fit", None, value_fit=fit, **more
    )


@pytest.mark.parametrize("kind", KINDS)
def test_causal_tracing_restores_what_noise_corrupted(kind: str) -> None:
    """Meng et al. 2022: noise at the subject's embeddings, then clean states put back."""
    some = [replace(pair, spans={"base": {"subject": (1, 3)}}) for pair in pairs(3, lengths=(5,))]
    corrupted = noise("subject")
    cells = [
        Cell((corrupted,), 4),
        *(
            Cell((corrupted, unit(s, 1, (t,), run="base")), 4)
            for s in ("mlp_output", "block_output")
            for t in ALL
        ),
        Cell((corrupted, unit("block_output", 0, ALL, run="base")), 4),
    ]
    outcome = check(kind, cells, some)
    kl = outcome.columns["kl_base"].reshape(len(cells), len(some))
    assert kl[0].min() > 1e-3
    assert kl[-1].max() < 1e-5


def test_noise_is_of_the_seed_the_pair_the_place_and_the_token_and_of_nothing_else() -> None:
    some = pairs(4)
    cells = [
        Cell((noise(1, 2),), 4),
        Cell((noise(1, 2, seed=1),), 4),
        Cell((noise(1), noise(2)), 4),
        Cell((noise(1, 2, site="attention_input"),), 4),
    ]
    together = run("llama", cells, some).columns["label_logit"].reshape(4, 4)
    np.testing.assert_allclose(together[0], together[2], rtol=1e-5)
    assert np.abs(together[0] - together[1]).min() > 1e-4
    assert np.abs(together[0] - together[3]).min() > 1e-4
    backwards = [replace(pair, pair=90 + pair.pair) for pair in reversed(some)]
    again = run("llama", cells[::-1], backwards, max_rows=3).columns["label_logit"].reshape(4, 4)
    np.testing.assert_allclose(together, again[::-1, ::-1], rtol=1e-4)


def test_the_example_that_noise_is_drawn_for_is_the_prompt_and_the_labels() -> None:
    (pair,) = pairs(1)
    assert example_of(pair) == example_of(replace(pair, pair=7, spans={"base": {"x": (0, 1)}}))
    assert example_of(pair) == example_of(replace(pair, tokens={"base": pair.tokens["base"]}))
    assert example_of(pair) != example_of(replace(pair, label_ids=(9,)))
    assert example_of(pair) != example_of(replace(pair, tokens={"base": (1, 2, 3)}))


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_of_noise_is_that_of_the_embeddings(kind: str) -> None:
    weight = tiny(kind).module.get_input_embeddings().weight[:VOCAB]
    stock = ModelResources(tiny(kind), no_fits)
    assert stock.embedding_std == pytest.approx(float(weight.std(correction=0)), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_fits_are_added_scaled_and_put_in_place(kind: str) -> None:
    cells = [
        Cell((vector("block_output", 1, *ALL, scale=-4.0),), 4),
        Cell((vector("block_output", 0, 3),), 4),
        Cell((vector("mlp_output", 2, 1, 4, operation="vanilla", fit="each token"),), 4),
        Cell((vector("mlp_output", 1, 4, 2, operation="subtract", dims=((1, 3), (9, 30))),), 4),
        Cell(
            (vector("attention_value_output", 1, *ALL, heads=(1, 3), fit="two heads", operation="vanilla"),),
            4,
        ),
        Cell((vector("query_output", 1, 4, heads=(0, 2), fit="two heads", dims=((2, 5),), scale=2.0),), 4),
    ]
    check(kind, cells, pairs(3))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_rotation_are_exchanged_and_units_share_it(kind: str) -> None:
    part = replace(unit("block_output", 1, (2, 4)), fit="whole")
    low, high = ((0, 16),), ((16, 32),)
    cells = [
        Cell((part,), 4),
        Cell((replace(part, dims=low),), 4),
        Cell((replace(part, dims=low), replace(part, dims=high, run="source_2")), 4),
        Cell((replace(part, dims=((1, 3), (20, 21)), operation="add"),), 4),
        Cell((replace(unit("attention_value_output", 0, ALL, heads=(0, 3)), fit="head", dims=((2, 6),)),), 4),
        Cell((replace(vector("block_output", 1, 3, operation="vanilla"), fit="whole", dims=high),), 4),
    ]
    some = pairs(3, lengths=(5, 5, 5))
    outcome = check(kind, cells, some)
    plain = run(kind, [swap("block_output", 1, (2, 4))], some)
    whole = outcome.columns["label_logit"][: len(some)]
    np.testing.assert_allclose(whole, plain.columns["label_logit"], rtol=1e-4, atol=1e-4)


def test_a_vector_as_coordinates_is_the_direction_along_it() -> None:
    model, some = tiny("llama"), pairs(2)
    cell = Cell((replace(unit("block_output", 1, (4,)), fit="vector"),), 4)
    direction = LowRankRotation(WIDTH, 1)
    direction.weight = (FITS["vector"] / FITS["vector"].norm())[:, None]
    found = run("llama", [cell], some).columns["label_logit"]
    other = Engine(model, capture_budget_bytes=1 << 30, fits={"vector": direction}.__getitem__)
    batch = Batch(cells=[(0, cell)], pairs=some, families=("logits",))
    np.testing.assert_allclose(found, other.run(batch).columns["label_logit"], rtol=1e-5)


def path(kind: str, layer: int, head: int) -> Cell:
    """What a head sends through the queries of two later heads, and nothing else of it."""
    frozen = [unit("attention_value_output", each, ALL, heads=(0, 1, 2, 3), run="base") for each in range(2)]
    sent = NamedRun("sent", (*frozen, unit("attention_value_output", layer, ALL, heads=(head,))))
    return Cell((unit("query_output", 2, (4,), heads=(1, 3), run="sent"),), 4, (sent,))


@pytest.mark.parametrize("kind", KINDS)
def test_path_patching_through_the_queries_of_later_heads(kind: str) -> None:
    cells = [path(kind, layer, head) for layer in range(2) for head in range(4)]
    outcome = check(kind, cells, pairs(3))
    assert outcome.columns["kl_base"].reshape(8, 3).max(1).min() > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_runs_take_values_from_runs_before_them(kind: str) -> None:
    there = Place("attention_output", 1, None, (1,))
    first = NamedRun("first", (unit("mlp_output", 0, (2,)), noise(3)))
    second = NamedRun(
        "second", (unit("block_output", 0, (1, 2), run="first"), unit("mlp_output", 1, (4,), run="source_2"))
    )
    own = unit("attention_output", 2, (4,), run="second", origin=there)
    mixed = replace(unit("block_output", 1, ALL, run="first"), fit="whole", dims=((4, 20),))
    cells = [
        Cell((own,), 4, (first, second)),
        Cell((mixed, own), 4, (first, second)),
        Cell((unit("block_output", 1, (0, 4), run="first"),), 4, (first,)),
        swap("block_output", 1, (3,)),
    ]
    check(kind, cells, pairs(3, lengths=(5, 5, 5)))


def test_pooled_values_and_spans_of_a_run_are_those_of_the_base() -> None:
    some = [replace(pair, spans={"base": {"who": (1, 4)}}) for pair in pairs(3, lengths=(5, 7))]
    sent = NamedRun("sent", (noise("who"),))
    pooled = Place("block_output", 0, None, ("who.mean",))
    cells = [
        Cell((unit("block_output", 1, ("who",), run="sent", origin=pooled),), "who.last", (sent,)),
        Cell((unit("mlp_output", 1, ("who",), run="sent"),), 4, (sent,)),
    ]
    check("gpt2", cells, some)


def mixture() -> list[Cell]:
    return [
        Cell((noise(1, 2),), 4),
        swap("block_output", 1, (2,)),
        Cell((vector("block_output", 1, *ALL),), 4),
        path("gpt2", 1, 2),
        Cell((replace(unit("block_output", 0, (3,)), fit="whole", dims=((0, 9),)),), 4),
        path("gpt2", 0, 0),
        Cell((noise(1, 2), unit("mlp_output", 1, (3,), run="base")), 4),
    ]


@pytest.mark.parametrize("shortcut", [False, True])
def test_packing_order_and_the_shortcut_change_nothing(shortcut: bool) -> None:
    cells, some = mixture(), pairs(5)
    packed = run("gpt2", cells, some).columns["label_logit"].reshape(len(cells), 5)
    for max_rows in (1, 4):
        found = run("gpt2", cells[::-1], some[::-1], max_rows=max_rows, shortcut=shortcut)
        rows = found.columns["label_logit"].reshape(len(cells), 5)[::-1, ::-1]
        np.testing.assert_allclose(rows, packed, rtol=1e-4, atol=1e-4)


def test_runs_that_cells_share_run_once_a_forward() -> None:
    sent = NamedRun("sent", (unit("mlp_output", 0, (2,)),))
    cells = [Cell((unit("block_output", 1, (t,), run="sent"),), 4, (sent,)) for t in (2, 3, 4)]
    some = pairs(2)
    rows: list[int] = []
    model = tiny("gpt2")
    handle = model.module.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        outcome = run("gpt2", cells, some, resume=False)
    finally:
        handle.remove()
    num_prompts = len({prompt for pair in some for prompt in pair.tokens.values()})
    assert sum(rows) == num_prompts + 2 + 6
    assert outcome.num_forwards == len(rows)


def test_what_noise_fits_and_runs_change_is_never_taken_for_unchanged() -> None:
    alike = [replace(p, tokens={"base": p.tokens["base"], "source": p.tokens["base"]}) for p in pairs(2)]
    sent = NamedRun("sent", (noise(1),))
    cells = [
        Cell((noise(2),), 4),
        Cell((vector("block_output", 1, 2),), 4),
        Cell((unit("block_output", 1, (2,), run="sent"),), 4, (sent,)),
        Cell((replace(unit("block_output", 1, (2,)), fit="whole", dims=((0, 4),)),), 4),
        Cell((noise(2),), 1),
    ]
    tiers = run("llama", cells, alike, shortcut=True).columns["tier"].reshape(5, 2)[:, 0].tolist()
    assert tiers == ["resumed", "resumed", "resumed", "unchanged", "unchanged"]


def test_a_block_that_is_skipped_returns_what_it_was_given() -> None:
    place = Place("block_output", 1, None, ALL)
    skipped = Cell((CellUnit(place, None, "skip", "zero", None),), 4)
    given = swap("block_output", 1, ALL, run="base", origin=Place("block_input", 1, None, ALL))
    columns = run("llama", [skipped, given], pairs(3)).columns["label_logit"].reshape(2, 3)
    np.testing.assert_allclose(columns[0], columns[1], rtol=1e-5)


def no_fit(identity: str) -> Tensor:
    raise RunError("the fit could not be made: no pair has this column")


def within(fit: str, *dims: tuple[int, int]) -> Cell:
    """A swap in the coordinates of a fit."""
    return Cell((replace(unit("block_output", 1, (2,)), fit=fit, dims=dims or None),), 4)


BROKEN_RUN = NamedRun("sent", (unit("block_output", 0, (7,)),))


@pytest.mark.parametrize(
    ("broken", "fits", "says"),
    [
        (Cell((vector("block_output", 1, 2),), 4), no_fit, "could not be made"),
        (Cell((vector("block_output", 1, 2),), 4), no_fits, "given no fits"),
        (Cell((vector("block_output", 1, 2, fit="whole"),), 4), None, "is no vector, as a value is"),
        (Cell((vector("block_output", 1, 2, fit="two heads"),), 4), None, "16 wide cannot change 32"),
        (Cell((vector("block_output", 1, 2, fit="two heads", dims=((20, 24),)),), 4), None, "that has 16"),
        (within("head"), None, "a subspace of 8 dimensions at a place of 32"),
        (within("whole", (30, 33)), None, "30:33 are not there"),
        (within("each token"), None, "coordinates need one for all"),
        (Cell((unit("block_output", 1, (2,), run="sent"),), 4, (BROKEN_RUN,)), None, "it has tokens 0 to 4"),
        (swap("mlp_activation", 1, (2,), operation="skip", run="zero"), None, "can be skipped"),
    ],
)
def test_what_cannot_be_had_fails_its_own_rows_and_says_why(broken: Cell, fits: Any, says: str) -> None:
    good = swap("block_output", 1, (2,))
    batch = Batch(cells=list(enumerate([good, broken, good])), pairs=pairs(2), families=("logits",))
    model = Engine(tiny("llama"), capture_budget_bytes=1 << 30, fits=fits or FITS.__getitem__)
    errors = model.run(batch).columns["error"]
    assert [error is None for error in errors] == [True] * 2 + [False] * 2 + [True] * 2
    assert says in json.loads(errors[2])["message"]


def test_a_run_that_breaks_in_its_forward_fails_only_the_jobs_that_need_it() -> None:
    # The module's tensor has no tokens, which only its forward tells.
    sent = NamedRun("sent", (unit("model.rotary_emb", None, (1,), run="zero"),))
    later = NamedRun("later", (unit("block_output", 0, (1,), run="sent"),))
    needs_it = Cell((unit("block_output", 1, (2,), run="later"),), 4, (sent, later))
    cells = [swap("block_output", 1, (2,)), needs_it, path("llama", 0, 0)]
    outcome = engine("llama").run(Batch(cells=list(enumerate(cells)), pairs=pairs(2), families=("logits",)))
    errors = outcome.columns["error"]
    assert [error is None for error in errors] == [True] * 2 + [False] * 2 + [True] * 2
    assert "only (rows, tokens, width)" in json.loads(errors[2])["message"]
