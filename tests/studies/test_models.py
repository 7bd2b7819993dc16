"""Promise: a model is written as a name or a mapping, is written back as it was, and keys that do not go
together are told."""

import re
from typing import Any

import pytest

from studies import ModelSpec, load_study
from studies.language.base import plain
from studies.language.models import check_model
from workers.errors import StudyError

DRAWN = {"ref": "./m", "missing_weights": "initialise", "seed": 3}


def message(model: str) -> str:
    with pytest.raises(StudyError) as refused:
        load_study(
            f"study: x\nmodel: {model}\npairs: [{{base: a, label: b}}]\nsweep: [{{site: mlp_output}}]\n"
        )
    return str(refused.value)


@pytest.mark.parametrize(
    "written", ["m", {"ref": "m", "dtype": "bfloat16"}, DRAWN, {"ref": "zoo:gru", "width": 2, "seed": 3}]
)
def test_a_model_is_written_back_as_it_was(written: Any) -> None:
    assert plain(check_model(written)) == written


def test_the_seed_of_a_model_that_is_made_here_is_an_option_and_of_another_its_missing_weights() -> None:
    for ref in ("zoo:gru", "artifact:sums/iit"):
        spec = check_model({"ref": ref, "seed": 3})
        assert (spec.seed, spec.options) == (None, {"seed": 3})
    spec = check_model(DRAWN)
    assert (spec.missing_weights, spec.seed, spec.options) == ("initialise", 3, {})
    assert spec.title == './m(missing_weights="initialise", seed=3)'


def test_a_plan_of_a_model_without_these_keys_says_nothing_of_them() -> None:
    keys = ["ref", "revision", "dtype", "device", "attention", "chat", "trust_remote_code", "options"]
    assert list(ModelSpec(ref="m").model_dump(mode="json")) == keys
    assert ModelSpec.model_validate(check_model(DRAWN).model_dump(mode="json")) == check_model(DRAWN)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            "{ref: m, seed: 0}",
            "model: the key 'seed' goes with missing_weights: initialise; add that, or leave",
        ),
        (
            "{ref: m, missing_weights: initialise}",
            "the key 'seed' is missing; .*draws from one, such as seed: 0",
        ),
        (
            "{ref: m, missing_weights: initialize, seed: 0}",
            "model.missing_weights: 'initialize' is not allowed here; .*did you mean 'initialise'",
        ),
        (
            "{ref: m, missing_weights: initialise, seed: -1}",
            "-1 is not allowed here; allowed: a whole number from 0",
        ),
        (
            "{ref: m, missing_weights: initialise, seed: true}",
            "True is not allowed here; allowed: a whole number",
        ),
        (
            "{ref: 'zoo:gru', missing_weights: initialise}",
            "a built-in model lacks no weights: leave missing_weights",
        ),
        (
            "{ref: 'artifact:a/b', missing_weights: initialise}",
            "a trained model lacks no weights: leave missing_",
        ),
        (
            "{ref: m, missing_weight: initialise}",
            "'missing_weight' is not allowed .*did you mean 'missing_weights'",
        ),
    ],
)
def test_keys_of_a_model_that_do_not_go_together_are_told(model: str, said: str) -> None:
    assert re.search(said, message(model)), message(model)
