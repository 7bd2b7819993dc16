"""Promise: a built-in model is its config: the same options give the same weights anywhere, its facts are
known before it is made, it disturbs no random state, and a wrong option is answered with the right ones."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from zoo import GPT, GRU, MLP, OPTIONS, zoo

from workers.errors import ModelError
from workers.model.families import BUILT_IN, num_positions, sites_of
from workers.model.loading import facts_of
from workers.zoo.build import make
from workers.zoo.configs import ZOO, config_of

NAMES = sorted(ZOO)
DRAWN = torch.tensor([0.4962566, 0.7682218, 0.0884774])
"""The first uniform numbers of seed 0 on any machine."""
BOUNDS = {"mlp": 1 / math.sqrt(8), "gru": 1 / math.sqrt(4), "gpt": math.sqrt(3)}
"""Of each model's first weights: whoever changes them raises the version in `workers.zoo.configs`."""


def options(name: str) -> dict[str, Any]:
    return OPTIONS[f"zoo:{name}"]


def test_knowing_a_built_in_model_loads_no_torch() -> None:
    code = "import workers.zoo.configs, sys; assert not {'torch', 'transformers'} & sys.modules.keys()"
    root = Path(sys.modules["workers.zoo"].__file__ or "").parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_options_give_the_same_weights_and_leave_the_random_state_alone(name: str) -> None:
    before = torch.get_rng_state()
    first, second = (make(name, **options(name)).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    found = next(iter(first.values())).flatten()[:3]
    torch.testing.assert_close(found, (2 * DRAWN - 1) * BOUNDS[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_gives_other_weights_and_another_revision(name: str) -> None:
    one, other = (make(name, **options(name) | {"seed": seed}) for seed in (0, 1))
    assert not torch.equal(*(next(model.parameters()) for model in (one, other)))
    assert one.config.revision != other.config.revision


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("mlp", {}),
        ("mlp", {"vocab_size": 30, "num_inputs": 4}),
        ("gru", {"vocab_size": 9}),
        ("gpt", {}),
        ("gpt", {"outputs": 5}),
    ],
)
def test_the_facts_are_those_of_the_module(name: str, more: dict[str, Any]) -> None:
    model = make(name, **options(name) | more)
    facts = config_of(name, options(name) | more).facts(dtype="float32")
    assert facts.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert facts.num_logits == model.head.out_features
    assert facts_of(model) == facts
    assert not model.training


def test_classifiers_and_language_models_say_what_labels_and_reads_are() -> None:
    classifier, steps = zoo("zoo:gru").facts, zoo("zoo:gru", per_step=True).facts
    assert (classifier.vocab_size, classifier.num_classes, classifier.reads) == (None, 3, "run")
    assert (steps.num_classes, steps.reads) == (3, "token")
    assert (zoo("zoo:mlp").facts.num_logits, zoo("zoo:mlp").facts.reads) == (3, "run")
    language = zoo("zoo:gpt").facts
    assert (language.num_classes, language.num_logits, language.reads) == (None, 61, "token")
    assert (zoo("zoo:gpt", outputs=2).facts.num_logits, zoo("zoo:gpt", outputs=2).facts.reads) == (2, "run")


def test_every_site_of_a_built_in_model_is_a_module_and_has_its_number_of_positions() -> None:
    positions = {"zoo:mlp": 1, "zoo:gru": 7, "zoo:gpt": 7}
    for family in BUILT_IN:
        model = zoo(family.name)
        for site in sites_of(model.facts):
            model.module.get_submodule(model.target(site, 1, None, None).tap.module)
            assert num_positions(site, model.facts, 7) == positions[family.name]
    assert num_positions("layers.0.linear", zoo("zoo:mlp").facts, 7) == 7


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        (
            "mpl",
            {},
            r"no built-in model 'zoo:mpl'; there are zoo:mlp, zoo:gru, zoo:gpt; did you mean 'mlp'\?",
        ),
        ("mlp", MLP | {"activaton": "relu"}, "no option 'activaton'; its options are .*mean 'activation'"),
        ("gru", {"width": 4, "seed": 0, "outputs": 2}, "needs the option 'num_layers'; it needs width, "),
        ("gru", GRU | {"width": "4"}, "'zoo:gru': width is '4'; it must be a whole number"),
        ("gru", GRU | {"outputs": 0}, "outputs is 0; it must be greater than 0"),
        (
            "mlp",
            MLP | {"activation": "sine"},
            "activation is 'sine'; it must be 'relu', 'leaky_relu', 'gelu'",
        ),
        ("mlp", MLP | {"num_inputs": 3}, "num_inputs 3 must divide the width 8"),
        ("gpt", GPT | {"num_heads": 5}, "num_heads 5 must divide the width 16"),
    ],
)
def test_wrong_options_are_answered_with_the_right_ones(name: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        config_of(name, given)
