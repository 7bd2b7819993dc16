"""Promise: a prompt is run once for all that is wanted of it, captures keep to their budget by letting go of
what was used longest ago, and a prompt that cannot be run spoils no other."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import facts_of, pairs, swap, tiny_module

from workers.engine.activation_cache import ActivationCache, PromptNeed, stacked
from workers.engine.engine import Batch, Engine
from workers.engine.replay.probe import probed
from workers.errors import RunError
from workers.model.hooks import Tap
from workers.model.loading import LoadedModel
from workers.vocabulary import Place, Prompt, Vectors

ONE, TWO = Tap("model.layers.0", "output"), Tap("model.layers.1.mlp", "input")
PROMPTS: list[Prompt] = [(4, 5, 6), (7, 8, 9), (9, 9, 3, 4), (5, 5, 5)]


@pytest.fixture
def model() -> LoadedModel:
    module = tiny_module("llama")
    return probed(LoadedModel.wrap(module, facts_of(module, "llama")))


def needs(
    *prompts: Prompt, taps: tuple[Tap, ...] = (ONE,), reads: tuple[int, ...] = ()
) -> dict[Prompt, PromptNeed]:
    return {prompt: PromptNeed(set(taps), set(reads)) for prompt in prompts}


def test_what_is_there_is_not_run_again_and_what_is_lacking_is_added(model: LoadedModel) -> None:
    captures = ActivationCache(model, budget_bytes=1 << 20)
    captures.prepare(needs(*PROMPTS), max_tokens=99)
    assert captures.num_forwards == 2  # one for each length
    captures.prepare(needs(*PROMPTS), max_tokens=99)
    assert captures.num_forwards == 2
    captures.prepare(needs(PROMPTS[0], taps=(ONE, TWO), reads=(1,)), max_tokens=99)
    assert captures.num_forwards == 3
    held = captures[PROMPTS[0]]
    assert held.taps.keys() == {ONE, TWO}
    full = model.module(input_ids=torch.tensor([PROMPTS[0]]), output_hidden_states=True)
    torch.testing.assert_close(held.taps[ONE], full.hidden_states[1][0])
    torch.testing.assert_close(held.logits[1], full.logits[0, 1])


def test_forwards_hold_no_more_tokens_than_allowed(model: LoadedModel) -> None:
    captures = ActivationCache(model, budget_bytes=1 << 20)
    captures.prepare(needs(*PROMPTS), max_tokens=6)
    assert captures.num_forwards == 3


def test_beyond_the_budget_the_prompt_used_longest_ago_goes(model: LoadedModel) -> None:
    size_bytes = 3 * 32 * 4
    captures = ActivationCache(model, budget_bytes=2 * size_bytes)
    first, second, third = PROMPTS[0], PROMPTS[1], PROMPTS[3]
    for prompt in (first, second, first, third):
        captures.prepare(needs(prompt), max_tokens=99)
    assert captures.get(second) is None
    assert captures[first].size_bytes == captures[third].size_bytes == size_bytes
    assert captures.num_forwards == 3


def test_what_is_needed_at_once_is_held_beyond_the_budget(model: LoadedModel) -> None:
    captures = ActivationCache(model, budget_bytes=1)
    captures.prepare(needs(*PROMPTS), max_tokens=99)
    assert all(captures[prompt].taps for prompt in PROMPTS)


def test_a_prompt_that_cannot_be_run_is_found_and_the_others_are_kept(model: LoadedModel) -> None:
    def fail(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (kwargs["input_ids"] == 8).any():
            raise ValueError("not eight")

    model.module.register_forward_pre_hook(fail, with_kwargs=True)
    captures = ActivationCache(model, budget_bytes=1 << 20)
    failed = captures.prepare(needs(*PROMPTS), max_tokens=99)
    assert {prompt: str(error) for prompt, error in failed.items()} == {PROMPTS[1]: "not eight"}
    assert captures.get(PROMPTS[1]) is None
    assert all(ONE in captures[prompt].taps for prompt in PROMPTS if prompt != PROMPTS[1])


def test_a_capture_does_not_change_when_the_model_writes_into_its_tensor(model: LoadedModel) -> None:
    clean = ActivationCache(model, budget_bytes=1 << 20)
    clean.prepare(needs(PROMPTS[0], taps=(ONE,)), max_tokens=99)

    def overwrite(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
        args[0].zero_()

    model.module.model.layers[1].register_forward_pre_hook(overwrite)
    captures = ActivationCache(model, budget_bytes=1 << 20)
    captures.prepare(needs(PROMPTS[0], taps=(ONE,)), max_tokens=99)
    assert torch.equal(captures[PROMPTS[0]].taps[ONE], clean[PROMPTS[0]].taps[ONE])


def test_ids_and_vectors_become_one_batch_each_and_never_one_of_both() -> None:
    cpu = torch.device("cpu")
    assert stacked([(1, 2), (3, 4)], cpu).tolist() == [[1, 2], [3, 4]]
    rows = [[[0.5, -1.0, 0.25]], [[2.0, 0.0, 1.0]]]
    batch = stacked([Vectors.of(row) for row in rows], cpu)
    assert batch.dtype == torch.float32 and batch.tolist() == rows
    for other in ((1,), Vectors.of([[1.0, 2.0]])):
        with pytest.raises(RunError, match="prompts of different forms share no forward"):
            stacked([Vectors.of(rows[0]), other], cpu)


def test_vectors_are_run_in_the_place_of_ids(model: LoadedModel) -> None:
    ids = PROMPTS[0]
    table = model.module.get_input_embeddings().weight
    vectors = Vectors.of(table[list(ids)].tolist())
    captures = ActivationCache(model, budget_bytes=1 << 20)
    assert captures.prepare(needs(ids, vectors, reads=(2,)), max_tokens=99) == {}
    torch.testing.assert_close(captures[vectors].logits[2], captures[ids].logits[2])
    torch.testing.assert_close(captures[vectors].taps[ONE], captures[ids].taps[ONE])


HEAD = tuple(range(3, 15))


def test_a_prefix_that_prompts_share_is_run_once_and_changes_nothing(model: LoadedModel) -> None:
    some = [(*HEAD, 20 + number, 30 + number, 40) for number in range(5)]
    tokens: list[int] = []
    model.module.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    captures = ActivationCache(model, budget_bytes=1 << 20)
    captures.prepare(needs(*some, taps=(ONE, TWO), reads=(13, 14)), max_tokens=99)
    assert tokens == [len(HEAD), 5 * 3]
    captures.prepare(needs((*HEAD, 1, 2), (*HEAD, 2, 1), taps=(TWO,), reads=(13,)), max_tokens=99)
    assert tokens[2:] == [2 * 2]
    for prompt in some:
        alone = ActivationCache(model, budget_bytes=1 << 20)
        alone.prepare(needs(prompt, taps=(ONE, TWO), reads=(13, 14)), max_tokens=99)
        for tap in (ONE, TWO):
            torch.testing.assert_close(captures[prompt].taps[tap], alone[prompt].taps[tap])
        for read in (13, 14):
            torch.testing.assert_close(captures[prompt].logits[read], alone[prompt].logits[read])


def test_a_prefix_in_which_something_is_read_is_run_by_each_prompt(model: LoadedModel) -> None:
    captures = ActivationCache(model, budget_bytes=1 << 20)
    captures.prepare(needs((*HEAD, 20), (*HEAD, 21), reads=(4,)), max_tokens=99)
    assert captures.num_forwards == 1


def test_of_a_tap_only_the_tokens_that_are_wanted_are_held(model: LoadedModel) -> None:
    whole, some = (ActivationCache(model, budget_bytes=1 << 20) for _ in range(2))
    whole.prepare(needs(*PROMPTS[2:3], taps=(ONE, TWO)), max_tokens=99)
    prompt = PROMPTS[2]
    for span, num_forwards in (((2, 3), 1), ((2, 3), 1), ((1, 3), 2), ((2, 3), 2), (None, 3), ((0, 1), 3)):
        need = PromptNeed()
        need.add({ONE: span})
        some.prepare({prompt: need}, max_tokens=99)
        assert some.num_forwards == num_forwards
        kept, (low, high) = some[prompt].kept(ONE), span or (0, 4)
        assert kept.num_positions == 4 and kept.first <= low
        assert torch.equal(
            kept.values[low - kept.first : high - kept.first], whole[prompt].taps[ONE][low:high]
        )
        if num_forwards < 3:
            assert len(kept.values) == num_forwards


def test_what_several_pairs_want_of_one_prompt_is_held_together() -> None:
    need = PromptNeed()
    for span in ((4, 5), (1, 2), (2, 3)):
        need.add({ONE: span, TWO: span})
    need.add({TWO: None})
    need.add({TWO: (0, 1)})
    assert (need.taps, need.spans) == ({ONE, TWO}, {ONE: (1, 5)})


@pytest.mark.parametrize("span", [(2, 4), (6, 14), (12, 13), (14, 15), (0, 15)])
def test_tokens_before_and_after_a_shared_prefix_are_held_alike(
    model: LoadedModel, span: tuple[int, int]
) -> None:
    prompts: list[Prompt] = [(*HEAD, one, 5, 9) for one in (3, 4, 5)]
    some, whole = (ActivationCache(model, budget_bytes=1 << 20) for _ in range(2))
    wanted = {prompt: PromptNeed() for prompt in prompts}
    for need in wanted.values():
        need.add({ONE: span})
    some.prepare(wanted, max_tokens=99)
    for prompt in prompts:
        whole.prepare(needs(prompt), max_tokens=99)
        kept = some[prompt].kept(ONE)
        assert (kept.first, len(kept.values), kept.num_positions) == (span[0], span[1] - span[0], 15)
        torch.testing.assert_close(kept.values, whole[prompt].taps[ONE][span[0] : span[1]])


def test_of_long_sources_a_sweep_holds_only_what_its_cells_can_take(model: LoadedModel) -> None:
    some = [
        replace(pair, spans={"source": {"who": (20 + pair.pair % 3, 23)}})
        for pair in pairs(8, lengths=(30, 30))
    ]
    last = [swap("mlp_output", layer, (29,), read=29) for layer in range(3)]
    who = Place("mlp_output", 1, None, ("who.first",))
    named, every = swap("block_output", 1, (25,), read=29, origin=who), Place("mlp_output", 0, None, (0,))
    forwards, budget_bytes = [], 60_000
    for cells in (last, [*last, named], [*last, named, swap("mlp_output", 0, (29,), read=29, origin=every)]):
        batch = Batch(cells=list(enumerate(cells)), pairs=some, families=("labels",))
        few, much = (
            Engine(model, capture_budget_bytes=size, resume=False, shortcut=False)
            for size in (budget_bytes, 1 << 30)
        )
        outcome = few.run(batch)
        forwards.append(outcome.num_forwards)
        torch.testing.assert_close(
            torch.tensor(outcome.columns["label_logit"]),
            torch.tensor(much.run(batch).columns["label_logit"]),
        )
    # Captures of the first pair, of all others, and then the jobs; until all tokens of one place are wanted.
    assert forwards[:2] == [3, 3] and forwards[2] > 3
