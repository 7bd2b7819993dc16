"""Promise: a change at time steps of a GRU has real recurrent semantics, as in one written out: only the
steps and rows named change, any other step keeps its own state, computed from the changed one before it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import plain_gru
import pytest
import torch
from plain_gru import SITES
from torch import Tensor, nn
from zoo import GRU, as_prompt, vector_pairs, vectors, zoo

import workers.zoo.models as zoo_modules
from workers.engine.activation_cache import ActivationCache, PromptNeed
from workers.engine.engine import Batch, Engine
from workers.engine.replay.probe import probed
from workers.errors import ModelError
from workers.model.hooks import Tap, visiting
from workers.model.loading import LoadedModel
from workers.model.windows import window_of
from workers.vocabulary import Cell, CellUnit, Pair, Place
from workers.zoo.build import make

STEPS = 10


@cache
def both() -> tuple[LoadedModel, nn.GRU]:
    """The built-in model and torch's with the same weights, large enough that old states show."""
    module = make("gru", **GRU)
    assert isinstance(module, zoo_modules.GRU)
    torch.manual_seed(0)
    theirs = nn.GRU(4, 4, num_layers=2, batch_first=True).requires_grad_(False)
    for parameter in theirs.parameters():
        parameter.mul_(2)
    module.copy_weights(theirs)
    return probed(LoadedModel.wrap(module, zoo("zoo:gru").facts)), theirs


def swap(site: str, layer: int, to: Sequence[int], at: Sequence[int]) -> Cell:
    place, origin = (Place(site, layer, None, tuple(steps)) for steps in (to, at))
    return Cell((CellUnit(place, None, "vanilla", "source", origin),), STEPS - 1)


def run(cells: Sequence[Cell], pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Logit of class 1, and of class 0, for each cell and pair."""
    batch = Batch(cells=list(enumerate(cells)), pairs=pairs, families=("logits", "kl"))
    outcome = Engine(both()[0], capture_budget_bytes=1 << 20).run(batch)
    assert [error for error in outcome.columns["error"] if error] == []
    one, other = (
        torch.tensor(np.array(outcome.columns[name])).reshape(len(cells), len(pairs))
        for name in ("label_logit", "base_label_logit")
    )
    return one, other


def expected(base: Tensor, source: Tensor, site: str, layer: int, steps: Mapping[int, int]) -> Tensor:
    """The logits [C] of one example, from the GRU written out."""
    model, theirs = both()
    states = plain_gru.swapped(theirs, base, source, site, layer, steps)
    return model.module.get_submodule("head")(states[-1])


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(
    ("to", "at"), [((0, 2, 4), (0, 5, 7)), ((4,), (7,)), ((9,), (0,)), (tuple(range(STEPS)),) * 2]
)
def test_a_swap_at_steps_is_the_gru_written_out(
    site: str, layer: int, to: tuple[int, ...], at: tuple[int, ...]
) -> None:
    base, source = vectors(3, STEPS, 4), vectors(3, STEPS, 4, seed=1)
    found = run([swap(site, layer, to, at)], vector_pairs(base, source))
    wanted = torch.stack(
        [
            expected(one, other, site, layer, dict(zip(to, at, strict=True)))
            for one, other in zip(base, source, strict=True)
        ]
    )
    torch.testing.assert_close(found[0][0], wanted[:, 1], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1][0], wanted[:, 0], rtol=0, atol=1e-6)
    clean = torch.stack([both()[0].module(inputs_embeds=base).logits[:, 0, 1]])
    assert not torch.allclose(found[0], clean, rtol=0, atol=1e-5)


def test_the_last_of_several_steps_decides_as_in_the_tutorial() -> None:
    """At the one layer's cell_output the state is the bottleneck: what was changed before it is lost."""
    pairs = vector_pairs(vectors(10, STEPS, 4), vectors(10, STEPS, 4, seed=1))
    cells = [
        swap("cell_output", 1, (0, 2, 4), (0, 5, 7)),
        swap("cell_output", 1, (4,), (7,)),
        swap("cell_output", 1, (0, 2), (0, 5)),
        swap("cell_output", 1, (2,), (5,)),
        swap("cell_output", 1, (0,), (0,)),
    ]
    found, _ = run(cells, pairs)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[2], found[3])
    assert not torch.allclose(found[0], found[2])
    assert not torch.allclose(found[2], found[4])
    assert (found.abs() > 0).all()


def test_all_last_states_give_the_sources_output() -> None:
    base, source = vectors(4, STEPS, 4), vectors(4, STEPS, 4, seed=1)
    found, _ = run([swap("cell_output", 1, (9,), (9,))], vector_pairs(base, source))
    torch.testing.assert_close(found[0], both()[0].module(inputs_embeds=source).logits[:, 0, 1])


def test_a_source_may_be_longer_than_the_base() -> None:
    base, source = vectors(2, STEPS, 4), vectors(2, 14, 4, seed=1)
    found, _ = run([swap("update_gate_output", 0, (1, 3), (13, 0))], vector_pairs(base, source))
    wanted = [
        expected(one, other, "update_gate_output", 0, {1: 13, 3: 0})[1]
        for one, other in zip(base, source, strict=True)
    ]
    torch.testing.assert_close(found[0], torch.stack(wanted), rtol=0, atol=1e-6)


def test_cells_at_other_steps_and_layers_share_a_forward_and_do_not_touch_each_other() -> None:
    """Rows with steps of their own: each is as if it ran alone."""
    pairs = vector_pairs(vectors(2, STEPS, 4), vectors(2, STEPS, 4, seed=1))
    cells = [
        swap(site, layer, (step,), (step,)) for site in SITES for layer in (0, 1) for step in range(STEPS)
    ]
    cells += [swap("cell_output", 0, (1, 3), (2, 0)), swap("cell_output", 0, (8, 3), (0, 1))]
    together, _ = run(cells, pairs)
    alone = torch.cat([run([cell], pairs)[0] for cell in cells])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_what_a_run_holds_at_a_step_site_is_kept_by_step() -> None:
    model, theirs = both()
    run_of = vectors(STEPS, 4)
    prompt = as_prompt(run_of)
    targets = {(site, layer): model.target(site, layer, None, None) for site in SITES for layer in (0, 1)}
    captures = ActivationCache(model, budget_bytes=0)
    assert captures.prepare({prompt: PromptNeed({t.tap for t in targets.values()}, {9})}, max_tokens=99) == {}
    assert captures.broken == {}
    values = plain_gru.record(theirs, run_of)
    for (site, layer), target in targets.items():
        wanted = torch.stack([values[site, layer, step] for step in range(STEPS)])
        torch.testing.assert_close(captures[prompt].taps[target.tap], wanted, rtol=0, atol=1e-6)


def doubled_at(steps: Sequence[int], tap: Tap, rows: int) -> Callable[[Tensor, int], Tensor | None]:
    """Doubles row 0 at some steps, and says nothing at the others."""

    def visit(tensor: Tensor, call: int) -> Tensor | None:
        window = window_of(tensor, tap, call, rows, STEPS)
        columns = [column for _, column in window.columns(steps)]
        if not columns:
            return None
        factor = torch.ones_like(window.values)
        factor[0, columns] = 2
        return window.restore(window.values * factor)

    return visit


def test_gradients_flow_through_the_changed_steps_to_earlier_inputs() -> None:
    model, theirs = both()
    base = vectors(2, STEPS, 4).requires_grad_()
    tap = model.target("cell_output", 0, None, None).tap
    with visiting(model.module, [(tap, doubled_at((3, 6), tap, 2))], num_steps=STEPS) as seen:
        logits = model.module(inputs_embeds=base).logits
    assert seen.faults() == {}

    def touch(site: str, layer: int, step: int, value: Tensor) -> Tensor:
        return value * 2 if (site, layer) == ("cell_output", 0) and step in (3, 6) else value

    plain = base.detach().clone().requires_grad_()
    head = model.module.get_submodule("head")
    states = [plain_gru.states(theirs, plain[0], touch), plain_gru.states(theirs, plain[1])]
    wanted = torch.stack([head(row[-1]) for row in states])
    torch.testing.assert_close(logits[:, 0], wanted, rtol=0, atol=1e-6)
    (found,), (plain_found,) = (
        torch.autograd.grad(out.sum(), given) for out, given in ((logits, base), (wanted, plain))
    )
    torch.testing.assert_close(found, plain_found, rtol=0, atol=1e-6)
    assert (found[:, 0].abs() > 0).all()


def test_a_step_module_named_by_its_path_is_not_taken_for_a_module_that_runs_once() -> None:
    model, _ = both()
    run_of = as_prompt(vectors(STEPS, 4))
    target = model.target("layers.0.cell", None, None, None)
    captures = ActivationCache(model, budget_bytes=0)
    captures.prepare({run_of: PromptNeed({target.tap})}, max_tokens=99)
    assert "'layers.0.cell' ran 10 times in one forward" in str(captures.broken[target.tap])


def test_a_layer_or_site_that_is_not_there_is_refused() -> None:
    model, _ = both()
    with pytest.raises(ModelError, match="cell_output at layer 2: zoo:gru has layers 0 to 1"):
        model.target("cell_output", 2, None, None)
    with pytest.raises(ModelError, match=r"zoo:gru .* has no site 'block_output'; it has cell_input, "):
        model.target("block_output", 0, None, None)
    with pytest.raises(ModelError, match="'cell_output' has no heads"):
        model.target("cell_output", 0, (0,), None)
