"""Promise: where a module has one position for the whole run, all tokens or position 0 name it, through the
same engine as elsewhere; and what is written there is what an MLP written out gives."""

import json
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from zoo import vector_pairs, vectors, zoo

from workers.engine.engine import Batch, BatchResult, Engine
from workers.vocabulary import Cell, CellUnit, CleanRun, Pair, Place, Position

BOTH, EVERY = (0, 1), tuple(range(10))


def swap(site: str, layer: int | None, position: Position, low: int = 0, high: int = 4) -> Cell:
    place = Place(site, layer, None, position)
    return Cell((CellUnit(place, ((low, high),), "vanilla", "source", place),), 1)


def run(cells: Sequence[Cell], pairs: Sequence[Pair], ref: str = "zoo:mlp") -> BatchResult:
    batch = Batch(cells=list(enumerate(cells)), pairs=pairs, families=("logits",))
    return Engine(zoo(ref), capture_budget_bytes=1 << 20).run(batch)


def plain(base: Tensor, source: Tensor, layer: int, low: int, high: int) -> Tensor:
    """The logits of base [2, 4] with the dimensions of a block's output as they are in source."""
    weights = zoo("zoo:mlp").module.state_dict()
    states = [base.flatten(), source.flatten()]
    for number in range(2):
        weight, bias = (weights[f"layers.{number}.linear.{kind}"] for kind in ("weight", "bias"))
        states = [torch.tanh(weight @ state + bias) for state in states]
        if number == layer:
            states[0] = torch.cat([states[0][:low], states[1][low:high], states[0][high:]])
    return weights["head.weight"] @ states[0] + weights["head.bias"]


@pytest.mark.parametrize("site", ["block_output", "mlp_activation"])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("low", "high"), [(0, 8), (0, 4), (4, 8)])
@pytest.mark.parametrize("position", [BOTH, (0,)])
def test_a_swap_in_an_mlp_is_the_mlp_written_out(
    site: str, layer: int, low: int, high: int, position: Position
) -> None:
    base, source = vectors(3, 2, 4), vectors(3, 2, 4, seed=1)
    outcome = run([swap(site, layer, position, low, high)], vector_pairs(base, source))
    wanted = [plain(one, other, layer, low, high) for one, other in zip(base, source, strict=True)]
    for column, number in (("label_logit", 1), ("base_label_logit", 0)):
        torch.testing.assert_close(
            torch.tensor(outcome.columns[column]), torch.stack(wanted)[:, number], rtol=0, atol=1e-6
        )


def test_some_of_several_tokens_are_a_failure_that_says_what_to_write() -> None:
    outcome = run([swap("block_output", 0, (1,))], vector_pairs(vectors(1, 2, 4), vectors(1, 2, 4)))
    said = json.loads(outcome.columns["error"][0])["message"]
    assert said.startswith("position [1] at layers.0:output, which has 1 for the whole run of 2: leave 'pos")


def test_the_values_of_all_tokens_do_not_fit_one_position() -> None:
    place, origin = (Place(site, None, None, EVERY) for site in ("head:input", "layers.1:output"))
    cell = Cell((CellUnit(place, None, "vanilla", "source", origin),), 1)
    outcome = run([cell], vector_pairs(vectors(1, 10, 4), vectors(1, 10, 4)), "zoo:gru")
    assert "10 values for 1 position" in outcome.columns["error"][0]


def test_a_module_by_path_may_have_one_position_too() -> None:
    base, source = vectors(3, 10, 4), vectors(3, 10, 4, seed=1)
    outcome = run([swap("head:input", None, EVERY)], vector_pairs(base, source), "zoo:gru")
    assert outcome.num_failed == 0
    wanted = zoo("zoo:gru").module(inputs_embeds=source).logits[:, 0, 1]
    torch.testing.assert_close(torch.tensor(outcome.columns["label_logit"]), wanted)


def test_a_classifier_is_read_once_whatever_the_read_says() -> None:
    base = vectors(2, 10, 4)
    pairs = vector_pairs(base, base)
    runs = [CleanRun(pair.tokens["base"], read, (1,), (0,)) for pair in pairs for read in (0, 9)]
    found = Engine(zoo("zoo:gru"), capture_budget_bytes=0).clean(runs)
    logits = zoo("zoo:gru").module(inputs_embeds=base).logits[:, 0, 1].repeat_interleave(2)
    torch.testing.assert_close(torch.tensor(found["label_logit"]), logits)


def test_steps_that_are_each_read_have_their_own_logits() -> None:
    base = vectors(1, 10, 4)
    (pair,) = vector_pairs(base, base)
    model = zoo("zoo:gru", per_step=True)
    runs = [CleanRun(pair.tokens["base"], read, (1,), (0,)) for read in range(10)]
    found = Engine(model, capture_budget_bytes=0).clean(runs)
    torch.testing.assert_close(
        torch.tensor(found["label_logit"]), model.module(inputs_embeds=base).logits[0, :, 1]
    )
