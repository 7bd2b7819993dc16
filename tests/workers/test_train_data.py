"""Promise: what is tested is never trained on, labels are the causal model's, and an impossible training is
refused with what would be possible."""

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.workers.trainings import ALIGNMENT, CAUSAL, DATA, MLP, SPEC, TASKS, VALUES, data, swap, trainer
from workers.causal.named import digit_sum
from workers.errors import ModelError, RunError, StudyError, SwapyardError
from workers.iit.data import CausalLabels, Data, Examples, one_hot, token_ids
from workers.iit.spec import Draw, LossTerm, Node, TorchClass, TrainSpec
from workers.iit.trainer import Trainer
from workers.vocabulary import Vectors
from workers.zoo.build import make


def test_an_input_that_is_trained_on_is_not_tested() -> None:
    with pytest.raises(RunError, match=r"is trained on and tested; draw tests from the split 'test'"):
        replace(DATA, base=DATA.train, source=DATA.train)


def test_labels_are_those_of_the_causal_model() -> None:
    causal = digit_sum(3, 10)
    three = token_ids(causal, {"x": np.array([3]), "y": np.array([6]), "z": np.array([9])})
    four = token_ids(causal, {name: np.array([4]) for name in "xyz"})
    labels = CausalLabels(Data(causal=causal, train=data().train, base=three, source=four))
    every = slice(None)
    swapped = [labels.swapped("O", (name,), (three, every), (four, every)).item() for name in ("x", "S")]
    assert [labels.clean("O", three, every).item(), *swapped] == [18, 19, 17]


def test_classes_that_are_named_take_the_place_of_numbers() -> None:
    given = {"S2": [100 + number for number in range(10)]}
    labels = CausalLabels(replace(DATA, classes=given))
    plain = CausalLabels(DATA).clean("S2", DATA.base, slice(None))
    assert torch.equal(labels.clean("S2", DATA.base, slice(None)), plain + 100)


def test_one_hot_vectors_and_ids_say_the_same() -> None:
    inputs = {name: np.array([0, 3]) for name in "wxyz"}
    vectors = one_hot(CAUSAL, inputs).given["inputs_embeds"]
    assert list(vectors.shape) == [2, 4, VALUES]
    assert torch.equal(vectors.argmax(-1), token_ids(CAUSAL, inputs).given["input_ids"])


def test_prompts_of_pairs_are_what_the_network_is_given() -> None:
    rows = DATA.train.given["input_ids"][:3].tolist()
    values = DATA.train.values[:3]
    ids = Examples.of_prompts([tuple(row) for row in rows], values).given["input_ids"]
    assert ids.tolist() == rows
    vectors = [[[0.5, 1.0], [2.0, -1.0]], [[1.0, 3.0], [0.25, 0.0]]]
    given = Examples.of_prompts([Vectors.of(one) for one in vectors], values[:2]).given["inputs_embeds"]
    assert given.tolist() == vectors
    with pytest.raises(RunError, match="inputs of 2 shapes; a training takes inputs of one length"):
        Examples.of_prompts([(1, 2), (1,)], values[:2])


def test_a_spec_is_the_same_after_json() -> None:
    node = Node(site="head_output", layer=1, heads=(0, 2), position=(1, 2), dims=("0:2",))
    spec = replace(
        SPEC,
        alignment={**ALIGNMENT, "S2": node},
        schedule=TorchClass("OneCycleLR", {"max_lr": 0.1, "betas": [1, 2]}),
        losses=(*TASKS, swap("S1", delay=1, warmup=100)),
    )
    assert TrainSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"losses": ()}, "a training without losses"),
        ({"num_epochs": 3}, "num_epochs or num_steps, one of them"),
        ({"batch_size": 0}, "batch_size 0; give a number from 1"),
        ({"losses": (LossTerm(kind="task", head="T3"),)}, "output 'T3'; variables_of has T1, T2"),
        ({"losses": (LossTerm(kind="interchange", head="T2"),)}, "an interchange has draws, a task none"),
        ({"losses": (swap("S3"),)}, "a draw of 'S3'; the alignment has a place for w, x, S1, C1, S2"),
        (
            {"losses": (LossTerm(kind="interchange", head="T2", draws=(Draw(("w",), 0.0),)),)},
            "the draws of T2 weigh nothing",
        ),
        ({"optimizer": TorchClass("AdmW", {"lr": 1.0})}, r"no optimizer 'AdmW'; .*; did you mean 'AdamW'\?"),
        ({"optimizer": TorchClass("LBFGS")}, "no optimizer 'LBFGS'; there are"),
        (
            {"optimizer": TorchClass("SGD", {"rate": 1})},
            "the optimizer SGD with .*'rate'.* its options are lr, ",
        ),
        ({"schedule": TorchClass("ReduceLROnPlateau")}, "no schedule 'ReduceLROnPlateau'; there are"),
        ({"schedule": TorchClass("OneCycleLR")}, "the schedule OneCycleLR with .*max_lr"),
        ({"variables_of": {"T1": "O", "T2": "S9"}}, "no variable 'S9'; there are"),
        ({"alignment": {**ALIGNMENT, "S9": ALIGNMENT["S1"]}}, "no variable 'S9'; there are"),
    ],
)
def test_an_impossible_training_is_refused(more: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyError, match=says):
        trainer(**more)


@pytest.mark.parametrize(
    ("more", "kind", "says"),
    [
        ({"alignment": {"S1": Node(site="block_output", layer=7)}}, ModelError, "layers 0 to 2"),
        ({"variables_of": {"T1": "O", "T2": "S2", "T3": "O"}}, StudyError, "no output 'T3'; it has T1, T2"),
    ],
)
def test_what_the_network_lacks_is_said_by_the_first_step(
    more: dict[str, Any], kind: type[SwapyardError], says: str
) -> None:
    with pytest.raises(kind, match=re.escape(says)):
        trainer(**more).advance()


def test_examples_have_a_row_of_each() -> None:
    with pytest.raises(RunError, match=r"examples of \[3, 4\] rows; give one row of each"):
        Examples(np.zeros((3, 4), np.int64), {"input_ids": torch.zeros(4, 4)})


def test_vectors_train_too() -> None:
    wide = {**MLP, "vocab_size": None, "width": 4 * VALUES}
    sets = {
        name: one_hot(CAUSAL, dict(zip("wxyz", getattr(DATA, name).values.T, strict=True)))
        for name in ("train", "base", "source")
    }
    made = Trainer(SPEC, make("mlp", **wide), replace(DATA, **sets))
    assert made.advance()
