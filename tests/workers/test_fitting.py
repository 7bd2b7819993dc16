"""Promise: a fit is what its method says, the same from the same seed, and leaves the model as it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.workers.fits import DAS, classifier, hidden, interchanges, planted, with_classes
from tests.workers.tiny import tiny
from workers.errors import ModelError, RunError, StudyError
from workers.fits.fitted import Example, FitSpec, decode_fitted, encode_fitted
from workers.fits.fitting import fit
from workers.intervene.features import PCA
from workers.intervene.masks import BoundlessRotation, Mask
from workers.intervene.saving import space_tensors
from workers.intervene.subspaces import LowRankRotation, Rotation, Subspace
from workers.vocabulary import Pair, Vectors

MODEL = classifier()
TRAIN, HELD_OUT = interchanges(MODEL, 256, seed=1), interchanges(MODEL, 100, seed=2)


def space_of(spec: FitSpec, examples: list[Example] = TRAIN) -> Subspace:
    made = fit(spec, MODEL, examples).content
    assert isinstance(made, Subspace)
    return made


def vector_of(spec: FitSpec, examples: list[Example] = TRAIN) -> Tensor:
    made = fit(spec, MODEL, examples).content
    assert isinstance(made, Tensor)
    return made


def activations(run: str, examples: list[Example] = TRAIN) -> Tensor:
    """[N, W], reckoned by hand."""
    prompts = [example.pair.tokens[run] for example in examples]
    rows = [np.frombuffer(p.data, "<f4").reshape(p.shape) for p in prompts if isinstance(p, Vectors)]
    return hidden(MODEL, torch.tensor(np.stack(rows))).detach()


def test_das_finds_a_planted_direction() -> None:
    made = fit(DAS, MODEL, TRAIN, HELD_OUT)
    assert isinstance(made.content, LowRankRotation)
    assert abs(float(made.content.weight.detach()[:, 0] @ planted(MODEL))) > 0.99
    assert made.report.held_out_iia is not None and made.report.held_out_iia > 0.95
    assert (made.report.num_held_out, made.report.num_pairs) == (100, 256)
    assert made.report.loss is not None and made.report.loss < 0.2
    assert made.report.num_parameters == 16


def test_without_training_the_same_accuracy_is_at_chance() -> None:
    untrained = fit(replace(DAS, num_steps=1, lr=1e-9), MODEL, TRAIN, HELD_OUT).report.held_out_iia
    assert untrained is not None and untrained < 0.8


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    short = replace(DAS, num_steps=5)
    first, again, other = (space_tensors(space_of(replace(short, seed=seed))) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_fit_is_the_same_under_inference_mode() -> None:
    with torch.inference_mode():
        inside = space_of(replace(DAS, num_steps=3))
    outside = space_of(replace(DAS, num_steps=3))
    assert torch.equal(space_tensors(inside)["rotation"], space_tensors(outside)["rotation"])


def test_the_model_is_left_as_it_was() -> None:
    before = {name: tensor.clone() for name, tensor in MODEL.module.state_dict().items()}
    fit(replace(DAS, num_steps=3), MODEL, TRAIN, HELD_OUT)
    assert all(torch.equal(tensor, before[name]) for name, tensor in MODEL.module.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in MODEL.module.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in MODEL.module.modules())


def test_boundless_finds_how_many_coordinates_it_needs() -> None:
    spec = replace(DAS, method="boundless", rank=None, temperature=(5.0, 0.1), penalty=3.0)
    made = fit(spec, MODEL, TRAIN, HELD_OUT)
    free = fit(replace(spec, penalty=0.0), MODEL, TRAIN).content
    assert isinstance(made.content, BoundlessRotation) and isinstance(free, BoundlessRotation)
    assert made.content.temperature == pytest.approx(0.1)
    assert float(made.content.boundary.detach()) < float(free.boundary.detach()) - 0.1
    assert made.report.held_out_iia is not None and made.report.held_out_iia > 0.9


@pytest.mark.parametrize("rank", [None, 4])
def test_a_mask_of_dimensions_or_of_a_rotation_learns_what_to_exchange(rank: int | None) -> None:
    spec = replace(DAS, method="mask", rank=rank, temperature=(0.5, 0.05), penalty=0.1)
    made = fit(spec, MODEL, TRAIN, HELD_OUT)
    assert isinstance(made.content, Mask) and made.content.num_coordinates == (rank or 16)
    assert made.report.held_out_iia is not None and made.report.held_out_iia > 0.9


def test_pca_is_numpys() -> None:
    made = space_of(FitSpec(method="pca", site="block_output", layer=0, rank=3))
    assert isinstance(made, PCA)
    rows = torch.cat([activations("base"), activations("source")]).double().numpy()
    _, vectors = np.linalg.eigh(np.cov(rows.T))
    cosines = np.abs((vectors[:, ::-1][:, :3] * made.components.numpy()).sum(0))
    assert cosines == pytest.approx(1, abs=1e-5)
    assert made.mean.numpy() == pytest.approx(rows.mean(0), abs=1e-6)


def test_pca_says_what_share_of_the_variance_it_leaves_out() -> None:
    rows = activations("source").double()
    values = torch.linalg.svdvals(rows - rows.mean(0)).square()
    made = fit(FitSpec(method="pca", site="block_output", layer=0, rank=2, of="source"), MODEL, TRAIN)
    assert made.report.loss == pytest.approx(float(values[2:].sum() / values.sum()), abs=1e-6)


def test_a_mean_is_that_of_the_run_it_names() -> None:
    mean = vector_of(FitSpec(method="mean", site="block_output", layer=0, of="source"))
    torch.testing.assert_close(mean, activations("source").mean(0), atol=1e-6, rtol=0)


def test_a_mean_by_position_has_a_vector_for_each_token() -> None:
    model = tiny("gpt2")
    prompts = [(3, 4, 5), (6, 7, 8, 9)]
    examples = [
        Example(Pair(n, {"base": prompt}, {}, (), ()), {"base": tuple(range(len(prompt)))}, 0)
        for n, prompt in enumerate(prompts)
    ]
    spec = FitSpec(method="mean", site="mlp_output", layer=1, of="base", by_position=True)
    made = fit(spec, model, examples).content
    found: list[Tensor] = []
    model.module.transformer.h[1].mlp.register_forward_hook(lambda *call: found.append(call[2][0]))
    with torch.no_grad():
        for prompt in prompts:
            model.module(input_ids=torch.tensor([prompt]))
    model.module.transformer.h[1].mlp._forward_hooks.clear()
    expected = torch.cat([(found[0] + found[1][:3]) / 2, found[1][3:]])
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


def test_a_difference_is_source_minus_base_where_there_are_no_classes() -> None:
    spec = FitSpec(method="mean_difference", site="block_output", layer=0)
    expected = activations("source").mean(0) - activations("base").mean(0)
    torch.testing.assert_close(vector_of(spec), expected, atol=1e-6, rtol=0)


def test_a_difference_of_classes_agrees_with_source_minus_base_where_all_pairs_go_one_way() -> None:
    spec = FitSpec(method="mean_difference", site="block_output", layer=0)
    torch.testing.assert_close(vector_of(spec, with_classes(TRAIN, "z", "a")), vector_of(spec))


def test_a_difference_of_classes_does_not_cancel_where_pairs_go_both_ways() -> None:
    spec = FitSpec(method="mean_difference", site="block_output", layer=0)
    half = len(TRAIN) // 2
    both = with_classes(TRAIN[:half], "a", "b") + with_classes(TRAIN[half:], "b", "a")
    base, source = activations("base"), activations("source")
    b_rows, a_rows = torch.cat([source[:half], base[half:]]), torch.cat([base[:half], source[half:]])
    torch.testing.assert_close(vector_of(spec, both), b_rows.mean(0) - a_rows.mean(0), atol=1e-6, rtol=0)


def test_a_probe_finds_the_direction_in_which_classes_lie_apart() -> None:
    sides = activations("base") @ planted(MODEL) > 0
    both = [
        replace(e, classes=("y" if up else "n", "y")) for e, up in zip(TRAIN, sides.tolist(), strict=True)
    ]
    high = (activations("source") @ planted(MODEL) > 0).tolist()
    both = [replace(e, classes=(e.classes[0], "y" if up else "n")) for e, up in zip(both, high, strict=True)]
    made = space_of(FitSpec(method="probe", site="block_output", layer=0), both)
    assert isinstance(made, PCA) and made.num_coordinates == 1
    assert abs(float(made.components[:, 0] @ planted(MODEL))) > 0.9


def test_a_random_rotation_needs_one_pair_to_see_the_width() -> None:
    whole = space_of(FitSpec(method="random_rotation", site="block_output", layer=0, seed=4), TRAIN[:1])
    assert isinstance(whole, Rotation) and whole.width == 16
    part = space_of(
        FitSpec(method="random_rotation", site="block_output", layer=0, rank=2, seed=4), TRAIN[:1]
    )
    assert isinstance(part, LowRankRotation) and part.num_coordinates == 2


@pytest.mark.parametrize(("heads", "width"), [(None, 32), ((1,), 8), ((0, 2), 8)])
def test_where_heads_are_named_coordinates_are_those_of_one_head(
    heads: tuple[int, ...] | None, width: int
) -> None:
    model = tiny("gpt2")
    pairs = [Pair(n, {"base": (1 + n, 4, 5), "source": (2, 7 + n, 8)}, {}, (9,), (3,)) for n in range(4)]
    examples = [Example(pair, {"base": (2,), "source": (2,)}, 2) for pair in pairs]
    spec = replace(DAS, site="attention_value_output", layer=1, heads=heads, num_steps=2, rank=2)
    made = fit(spec, model, examples).content
    assert isinstance(made, LowRankRotation) and made.width == width


def test_pairs_of_unequal_lengths_are_trained_together() -> None:
    model = tiny("gpt2")
    pairs = [
        Pair(0, {"base": (1, 4), "source": (2, 7, 8)}, {}, (9,), (3,)),
        Pair(1, {"base": (1, 4, 6), "source": (2, 7)}, {}, (8,), (3,)),
    ]
    examples = [
        Example(
            pair,
            {run: (len(tokens) - 1,) for run, tokens in pair.tokens.items()},
            len(pair.tokens["base"]) - 1,
        )
        for pair in pairs
    ]
    spec = replace(DAS, layer=1, rank=8, lr=0.05)
    begun, done = (fit(replace(spec, num_steps=steps), model, examples).report.loss for steps in (1, 40))
    assert begun is not None and done is not None and done < begun - 0.5


def test_what_is_written_is_read_back_and_trained_no_more() -> None:
    made = fit(replace(DAS, num_steps=3), MODEL, TRAIN, HELD_OUT)
    again = decode_fitted(*encode_fitted(made))
    rows = activations("base")
    assert isinstance(made.content, Subspace) and isinstance(again.content, Subspace)
    torch.testing.assert_close(again.content.coordinates(rows), made.content.coordinates(rows))
    assert again.report == made.report
    assert not any(p.requires_grad for p in again.content.parameters())


@pytest.mark.parametrize(
    ("spec", "examples", "error", "text"),
    [
        (DAS, [], RunError, "needs a pair"),
        (replace(DAS, rank=17), TRAIN, StudyError, "rank 17 is more than the 16 dimensions"),
        (replace(DAS, layer=7), TRAIN, ModelError, "layer 7"),
        (replace(DAS, lr=1e30), TRAIN, RunError, "take a smaller lr"),
        (
            FitSpec(method="probe", site="block_output", layer=0),
            TRAIN,
            RunError,
            "base_class and source_class",
        ),
        (
            FitSpec(method="mean_difference", site="block_output", layer=0),
            with_classes(TRAIN[:2], "a", "b") + with_classes(TRAIN[2:], "a", "c"),
            RunError,
            "name a, b, c",
        ),
        (
            FitSpec(method="pca", site="block_output", layer=0, rank=9),
            TRAIN[:2],
            StudyError,
            "9 components of 4",
        ),
    ],
)
def test_what_cannot_be_fitted_is_an_error_that_says_why(
    spec: FitSpec, examples: list[Example], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        fit(spec, MODEL, examples)
