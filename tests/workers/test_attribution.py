"""Promise: an estimate is the derivative of the answer along the change that a cell makes, as a plain
network in torch has it; of a small change it is the effect itself; what fails spoils nothing else."""

from collections.abc import Sequence

import numpy as np
import pytest
import reference
import torch
from numpy.typing import NDArray
from tiny import pairs, swap, tiny, unit
from torch import Tensor
from zoo import vector_pairs, vectors, zoo

from workers.engine.engine import Batch, BatchResult, Engine
from workers.engine.estimates import difference
from workers.engine.scoring import Labels
from workers.intervene.subspaces import Rotation, Subspace
from workers.vocabulary import Cell, CellUnit, NamedRun, Pair, Place

SPANS = {"base": {"x": (1, 3)}, "source": {"x": (2, 4)}}

LATER = Place("mlp_output", 0, None, (3,))

CELLS = {
    "whole": swap("block_output", 1, (2,)),
    "every token": swap("mlp_output", 0, (0, 1, 2, 3, 4)),
    "a head": swap("attention_value_output", 1, (4,), heads=(1,)),
    "keys of heads": swap("key_output", 1, (1, 2), heads=(1, 0)),
    "queries": swap("query_output", 2, (4,), heads=(0, 3)),
    "dimensions": swap("mlp_activation", 1, (2,), dims=((3, 9), (11, 12))),
    "dimensions of heads": swap("value_output", 0, (2,), heads=(0, 1), dims=((1, 4),)),
    "a span": swap("block_input", 1, ("x",)),
    "a pooled span": swap("mlp_output", 1, ("x",), origin=Place("mlp_output", 1, None, ("x.mean",))),
    "added": swap("attention_output", 1, (3,), operation="add"),
    "subtracted": swap("block_output", 0, (1, 2), operation="subtract"),
    "zero": swap("mlp_output", 1, (2, 4), run="zero"),
    "its own value": swap("mlp_output", 1, (2,), run="base"),
    "another place": swap("mlp_output", 1, (2,), origin=LATER),
    "two places": Cell((unit("mlp_output", 0, (2,)), unit("attention_output", 2, (4,), heads=None)), 4),
    "one place twice": Cell((unit("mlp_output", 1, (2, 3)), unit("mlp_output", 1, (3,), run="zero")), 4),
    "an earlier read": swap("block_output", 0, (1,), read=2),
    "past the read": swap("block_output", 0, (4,), read=2),
    "a read in a span": swap("block_output", 0, (1,), read="x.last"),
    "in a rotation": Cell((CellUnit(LATER, ((0, 5),), "vanilla", "source", LATER, fit="turn"),), 4),
    "a vector": Cell((CellUnit(LATER, None, "add", "fit", None, value_fit="vector", scale=2.0),), 4),
    "part of a vector": Cell((CellUnit(LATER, ((4, 8),), "vanilla", "fit", None, value_fit="vector"),), 4),
}


TURN = Rotation(32, seed=1)
FITS = {"turn": TURN.weight.detach(), "vector": torch.linspace(-1, 1, 32)}


def fitted(identity: str) -> Subspace | Tensor:
    return TURN if identity == "turn" else FITS[identity]


def some_pairs(count: int = 3) -> list[Pair]:
    return [
        Pair(pair.pair, pair.tokens, SPANS, pair.label_ids, pair.base_label_ids)
        for pair in pairs(count, lengths=(5, 5))
    ]


def run(
    kind: str, cells: Sequence[Cell], given: Sequence[Pair], family: str = "estimate", **how: int
) -> BatchResult:
    engine = Engine(tiny(kind), **{"capture_budget_bytes": 1 << 30, **how}, fits=fitted)
    return engine.run(Batch(cells=list(enumerate(cells)), pairs=given, families=(family,)))


def estimates(kind: str, cells: Sequence[Cell], given: Sequence[Pair], **how: int) -> NDArray[np.float32]:
    """[cells, pairs]."""
    outcome = run(kind, cells, given, **how)
    assert not outcome.num_failed, list(outcome.columns["error"])
    assert set(outcome.columns["tier"]) == {"estimated"}
    found: NDArray[np.float32] = outcome.columns["estimate"].reshape(len(cells), len(given))
    return found


def answer(logits: Tensor, pair: Pair) -> Tensor:
    """What the label gets less what the base label gets."""
    label, base_label = (logits[list(ids)].logsumexp(0) for ids in (pair.label_ids, pair.base_label_ids))
    return label - base_label


def derivative(kind: str, cell: Cell, pair: Pair) -> float:
    """How fast the answer changes when every place goes from its clean value towards the cell's."""
    module = tiny(kind).module
    runs = {name: reference.record(kind, module, tokens) for name, tokens in pair.tokens.items()}
    units = reference.Units(cell.units, runs, dict(pair.spans), module.config, FITS, None)
    step = torch.zeros((), requires_grad=True)

    def touch(site: str, layer: int, value: Tensor) -> Tensor:
        if (site, layer) not in runs["base"]:
            return value
        clean = runs["base"][site, layer]
        return value + step * (units.touch(site, layer, clean) - clean)

    logits = reference.NETWORKS[kind](module.state_dict(), module.config, pair.tokens["base"], touch)
    (read,) = reference.located((cell.read,), pair.spans["base"])
    (slope,) = torch.autograd.grad(answer(logits[read], pair), step)
    return float(slope)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_estimates_are_the_derivatives_of_a_plain_network(kind: str) -> None:
    given = some_pairs()
    wanted = np.array([[derivative(kind, cell, pair) for pair in given] for cell in CELLS.values()])
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(
        estimates(kind, list(CELLS.values()), given), wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max()
    )


def test_a_small_change_has_the_effect_that_is_estimated() -> None:
    cells = [
        Cell((CellUnit(place, None, "add", "fit", None, value_fit="vector", scale=1e-3),), 4)
        for place in (LATER, Place("block_output", 1, None, (1, 2)), Place("attention_input", 2, None, (4,)))
    ]
    given = some_pairs()
    exact = run("llama", cells, given, "logits").columns
    clean = run("llama", [swap("mlp_output", 0, (2,), run="base")], given, "logits").columns
    change = _answers(exact).reshape(len(cells), -1) - _answers(clean)
    assert np.abs(change).max() > 1e-4
    # What is left is the curvature, and the rounding of logits.
    np.testing.assert_allclose(estimates("llama", cells, given), change, rtol=0.02, atol=5e-6)


@pytest.mark.parametrize("ref", ["zoo:mlp", "zoo:gru", "zoo:gpt"])
def test_built_in_models_are_estimated_too(ref: str) -> None:
    """Vectors for prompts, classes for labels, a module for each time step, an answer for the whole run."""
    is_gpt, is_mlp = ref == "zoo:gpt", ref == "zoo:mlp"
    inputs = {"zoo:mlp": (3, 1, 8), "zoo:gru": (3, 5, 4)}
    given = some_pairs() if is_gpt else vector_pairs(*(vectors(*inputs[ref], seed=n) for n in (0, 1)))
    site = "cell_output" if ref == "zoo:gru" else "block_output"
    width = zoo(ref).facts.width
    engine = Engine(zoo(ref), capture_budget_bytes=1 << 30, fits=lambda _: torch.linspace(-1, 1, width))
    position, read = (0,) if is_mlp else (2,), len(given[0].tokens["base"]) - 1
    cells = [
        Cell((CellUnit(Place(site, layer, None, position), None, "add", "fit", None, None, "v", 1e-3),), read)
        for layer in (0, 1)
    ]
    clean = swap(site, 0, position, run="base", read=read)
    change, found = (
        engine.run(Batch(cells=list(enumerate([*cells, clean])), pairs=given, families=(family,))).columns
        for family in ("logits", "estimate")
    )
    exact = _answers(change).reshape(3, -1)
    estimated = found["estimate"].reshape(3, -1)
    assert np.abs(exact[:2] - exact[2]).max() > 1e-5
    np.testing.assert_allclose(estimated[:2], exact[:2] - exact[2], rtol=0.02, atol=2e-6)
    np.testing.assert_array_equal(estimated[2], 0)


def _answers(columns: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return columns["label_logit"] - columns["base_label_logit"]


def test_neither_memory_nor_neighbours_change_an_estimate() -> None:
    given, cells = some_pairs(5), list(CELLS.values())
    alone = np.array([[estimates("gpt2", [cell], [pair])[0, 0] for pair in given] for cell in cells])
    scale = np.abs(alone).max()
    for budget in (1, 200_000, 1 << 30):
        packed = estimates("gpt2", cells, given, capture_budget_bytes=budget)
        np.testing.assert_allclose(packed, alone, rtol=1e-5, atol=1e-5 * scale)


def test_each_prompt_runs_once_whatever_the_number_of_cells() -> None:
    given = some_pairs(4)
    cells = [
        swap(site, layer, (t,))
        for site in ("mlp_output", "attention_output")
        for layer in (0, 1, 2)
        for t in range(5)
    ]
    # One to see how wide the places are; the bases, forward and back; their sources.
    assert run("llama", cells, given).num_forwards == run("llama", cells[:1], given).num_forwards == 3


def test_without_a_base_label_the_answer_is_what_the_label_gets() -> None:
    logits = torch.randn(4, 11, generator=torch.Generator().manual_seed(0))
    labels, base_labels = ([(3,), (4, 5), (), ()], [(1,), (), (2,), ()])
    device = torch.device("cpu")
    found = difference(logits, Labels.of(labels, device), Labels.of(base_labels, device))
    wanted = [logits[0, 3] - logits[0, 1], logits[1, [4, 5]].logsumexp(0), -logits[2, 2]]
    torch.testing.assert_close(found[:3], torch.stack(wanted))
    assert found[3].isnan()


def test_a_pair_without_labels_has_no_estimate_and_is_no_failure() -> None:
    first, second = some_pairs(2)
    bare = Pair(second.pair, second.tokens, second.spans, (), ())
    outcome = run("llama", [CELLS["whole"]], [first, bare])
    assert outcome.num_failed == 0
    wanted = estimates("llama", [CELLS["whole"]], [first])[0, 0]
    assert outcome.columns["estimate"][0] == pytest.approx(wanted, rel=1e-5)
    assert np.isnan(outcome.columns["estimate"][1])


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            Cell((CellUnit(LATER, None, "add", "noise", None, scale=1.0, seed=0),), 4),
            "noise cannot be estimated",
        ),
        (Cell((unit("mlp_output", 0, (1,), operation="skip"),), 4), "the intervention 'skip' cannot be"),
        (Cell((unit("mlp_output", 0, (1,), operation="a:b"),), 4), "the intervention 'a:b' cannot be"),
        (Cell((unit("mlp_output", 0, (1,)),), 4, (NamedRun("r", ()),)), "another intervened run cannot be"),
        (swap("mlp_output", 7, (1,)), "has layers 0 to 2"),
        (swap("mlp_output", 0, (9,)), "token 9 of base in pair"),
        (swap("mlp_output", 0, (1,), run="source_2"), "has no run 'source_2'"),
        (swap("model.norm.nowhere", None, (1,)), "has no module"),
    ],
)
def test_a_cell_that_cannot_be_estimated_fails_alone(cell: Cell, message: str) -> None:
    given = some_pairs(2)
    outcome = run("llama", [CELLS["whole"], cell, CELLS["a head"]], given)
    errors = outcome.columns["error"].reshape(3, 2)
    assert all(message in text for text in errors[1])
    assert np.isnan(outcome.columns["estimate"][2:4]).all()
    assert [text for row in errors[[0, 2]] for text in row] == [None] * 4
    np.testing.assert_allclose(
        outcome.columns["estimate"].reshape(3, 2)[[0, 2]],
        estimates("llama", [CELLS["whole"], CELLS["a head"]], given),
        rtol=1e-5,
    )


def test_a_pair_that_lacks_a_span_fails_alone() -> None:
    first, second, third = some_pairs(3)
    other = Pair(
        second.pair, second.tokens, {"base": {}, "source": {}}, second.label_ids, second.base_label_ids
    )
    outcome = run("llama", [CELLS["a span"]], [first, other, third])
    assert [text is None for text in outcome.columns["error"]] == [True, False, True]
    wanted = estimates("llama", [CELLS["a span"]], [first, second, third])[0]
    np.testing.assert_allclose(outcome.columns["estimate"][[0, 2]], wanted[[0, 2]], rtol=1e-5)
