"""Promise: what cannot be run is a row that says why, without values; it spoils no other row, raises nothing
and leaves no hook behind, and hooks of the caller stay."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import LAYERS, facts_of, pairs, swap, tiny_module, unit

from workers.engine.engine import Batch, BatchResult, Engine
from workers.engine.replay.probe import probed
from workers.model.loading import LoadedModel
from workers.vocabulary import Cell, Pair, Place

GOOD = swap("block_output", 1, (2,))
TWO_TOKENS = Place("block_output", 1, None, (1, 2))
NEURONS = Place("mlp_activation", 1, None, (2,))


@pytest.fixture
def model() -> LoadedModel:
    """A model of the test's own, to which it may add hooks."""
    module = tiny_module("llama")
    return probed(LoadedModel.wrap(module, facts_of(module, "llama")))


def run(model: LoadedModel, cells: Sequence[Cell], some: Sequence[Pair]) -> BatchResult:
    batch = Batch(cells=list(enumerate(cells)), pairs=some, families=("logits", "kl"))
    outcome = Engine(model, capture_budget_bytes=1 << 30, shortcut=False).run(batch)
    assert outcome.num_cells == len(cells)
    for row, error in enumerate(outcome.columns["error"]):
        assert np.isnan(outcome.columns["label_logit"][row]) == (error is not None)
        assert (outcome.columns["pred_id"][row] == -1) == (error is not None)
    assert outcome.num_failed == sum(error is not None for error in outcome.columns["error"])
    return outcome


def errors(outcome: BatchResult) -> list[tuple[str, str] | None]:
    rows = [error and json.loads(error) for error in outcome.columns["error"]]
    return [row and (row["type"], row["message"]) for row in rows]


def num_hooks(model: LoadedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules())


@pytest.mark.parametrize(
    ("broken", "type_name", "says"),
    [
        (swap("block_output", 9, (2,)), "ModelError", "layers 0 to 2"),
        (swap("mlp_post_norm_output", 1, (2,)), "ModelError", "has no site"),
        (swap("block_outptu", 1, (2,)), "ModelError", "did you mean 'block_output'"),
        (swap("model.layers.1.nothing", None, (2,)), "ModelError", "has no module"),
        (swap("model.layers.1.mlp:side", None, (2,)), "ModelError", "':input' or ':output'"),
        (swap("query_output", 1, (2,), heads=(4,)), "ModelError", "heads 0 to 3"),
        (swap("key_output", 1, (2,), heads=(2,)), "ModelError", "heads 0 to 1"),
        (swap("mlp_output", 1, (2,), heads=(0,)), "ModelError", "has no heads"),
        (swap("block_output", 1, (2,), dims=((30, 33),)), "ModelError", "there are 32"),
        (swap("block_output", 1, (5,)), "RunError", "it has tokens 0 to 4"),
        (swap("block_output", 1, (-1,)), "RunError", "it has tokens 0 to 4"),
        (swap("block_output", 1, ("who",)), "StudyError", "no span 'who'"),
        (swap("block_output", 1, (2,), read=5), "RunError", "it has tokens 0 to 4"),
        (swap("block_output", 1, (2,), run="source_2"), "RunError", "no run 'source_2'"),
        (swap("block_output", 1, (2,), operation="multiply"), "RunError", "vanilla, add, subtract"),
        (swap("block_output", 1, (2,), origin=TWO_TOKENS), "RunError", "2 tokens of"),
        (swap("block_output", 1, (2,), origin=NEURONS), "RunError", "48 wide"),
        (swap("model.rotary_emb", None, (2,)), "ModelError", "only (rows, tokens, width)"),
        (swap("lm_head:output", None, (0,), run="zero"), "ModelError", "1, 61]"),
        (swap("model.layers.1.mlp.act_fn.nothing:input", None, (2,)), "ModelError", "has no module"),
    ],
)
def test_a_broken_cell_fails_alone(model: LoadedModel, broken: Cell, type_name: str, says: str) -> None:
    some = pairs(3)
    found = errors(run(model, [GOOD, broken, GOOD], some))
    assert [f is None for f in found] == [True] * 3 + [False] * 3 + [True] * 3
    for failure in found[3:6]:
        assert failure is not None
        assert failure[0] == type_name
        assert says in failure[1]
    assert num_hooks(model) == 0


def test_a_module_that_does_not_run_is_an_error_wherever_it_is_used(model: LoadedModel) -> None:
    model.module.model.layers[1].idle = torch.nn.Linear(32, 32)
    path = "model.layers.1.idle"
    cells = [
        GOOD,
        swap(path, None, (2,)),
        swap(path, None, (2,), run="zero"),
        swap("block_output", 1, (2,), origin=Place(path, None, None, (2,))),
    ]
    found = errors(run(model, cells, pairs(2)))
    assert found[:2] == [None, None]
    for failure in found[2:]:
        assert failure is not None
        assert failure[0] == "ModelError"
        assert f"module {path!r} did not run in the forward" in failure[1]


def test_a_module_that_runs_twice_is_an_error(model: LoadedModel) -> None:
    shared = model.module.model.layers[0].mlp.act_fn
    model.module.model.layers[1].mlp.act_fn = shared
    found = errors(run(model, [GOOD, swap("model.layers.0.mlp.act_fn", None, (2,), run="zero")], pairs(2)))
    assert found[:2] == [None, None]
    assert all(failure and "ran 2 times" in failure[1] for failure in found[2:])


def raise_at(token: int) -> Callable[..., None]:
    """A hook of the caller that fails wherever a row has some token."""

    def hook(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (kwargs["input_ids"] == token).any():
            raise RuntimeError(f"cannot bear {token}")

    return hook


def test_one_rows_exception_is_found_by_halving_and_hooks_of_the_caller_stay(model: LoadedModel) -> None:
    some = pairs(7)
    bad = replace(some[4], tokens={**some[4].tokens, "base": (1, 60, 2, 1, 2)})
    some[4] = bad
    for pair in (*some[:4], *some[5:]):
        assert 60 not in pair.tokens["base"] + pair.tokens["source"]
    model.module.register_forward_pre_hook(raise_at(60), with_kwargs=True)
    found = errors(run(model, [GOOD, swap("mlp_output", 0, (1,))], some))
    assert [row for row, failure in enumerate(found) if failure] == [4, 11]
    assert found[4] == ("RuntimeError", "cannot bear 60")
    assert num_hooks(model) == 1


def test_a_source_that_cannot_be_run_fails_only_the_jobs_that_take_from_it(model: LoadedModel) -> None:
    some = pairs(3)
    some[1] = replace(some[1], tokens={**some[1].tokens, "source": (1, 60, 2, 1, 2)})
    model.module.register_forward_pre_hook(raise_at(60), with_kwargs=True)
    outcome = run(model, [GOOD, swap("mlp_output", 0, (1,), run="zero")], some)
    assert [row for row, failure in enumerate(errors(outcome)) if failure] == [1]
    assert np.isnan(outcome.columns["kl_source"][[1, 4]]).all()


def test_logits_that_are_not_finite_are_an_error(model: LoadedModel) -> None:
    def poison(_: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[args[0] == 60] = torch.inf
        return output

    model.module.model.embed_tokens.register_forward_hook(poison)
    some = pairs(3)
    some[1] = replace(some[1], tokens={**some[1].tokens, "base": (60, 3, 2, 1, 2)})
    outcome = run(model, [GOOD], some)
    assert [failure and failure[0] for failure in errors(outcome)] == [None, "NonFinite", None]


def test_memory_that_runs_out_makes_forwards_smaller_and_loses_nothing(model: LoadedModel) -> None:
    sizes: list[int] = []

    def hook(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 5:
            raise torch.OutOfMemoryError("no room for more than 5 rows")

    model.module.register_forward_pre_hook(hook, with_kwargs=True)
    cells = [swap("block_output", layer, (token,)) for layer in range(LAYERS) for token in range(5)]
    engine = Engine(model, capture_budget_bytes=1 << 30, shortcut=False, resume=False)
    for _ in range(2):
        outcome = engine.run(Batch(cells=list(enumerate(cells)), pairs=pairs(4), families=("logits",)))
        assert outcome.num_failed == 0
    assert sizes[-1] <= 5
    assert num_hooks(model) == 1


def test_a_failing_unit_of_several_fails_the_row(model: LoadedModel) -> None:
    two = Cell((unit("block_output", 0, (1,)), unit("mlp_output", 1, (2,), dims=((0, 99),))), 4)
    found = errors(run(model, [two, GOOD], pairs(2)))
    assert [failure is None for failure in found] == [False, False, True, True]
