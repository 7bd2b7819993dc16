"""Promise: a wrong training is refused when the study is read; a right one says all that it is made of."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from studies import Study, load_study
from studies.language.train import OPTIMIZERS, SCHEDULES
from studies.language.trained import read_variables, swept, trainings
from studies.load import load_all
from workers.errors import StudyError
from workers.iit.spec import Draw, TorchClass, TrainSpec
from workers.iit.trainer import optimizer_of, schedule_of

pytestmark = pytest.mark.versions

HEAD = """
study: x
task: {name: digit_sum, num_train: 20, num_test: 5, seed: 0}
alignment: {S: {site: block_output, layer: 0, subspace: "0:8"}, x: {site: block_input, layer: 0}}
sweep: [{model: iit, variables: all}]
"""
MODEL = "model: {ref: 'zoo:mlp', width: 24, num_layers: 2, outputs: 28}"
REST = "optimizer: {name: SGD, lr: 0.1}, num_epochs: 1, batch_size: 4, seed: 0"


def train(text: str) -> str:
    return f"{HEAD}train: {{iit: {{{text}}}}}\n"


@pytest.fixture(scope="module")
def example() -> Study:
    every = load_all((Path(__file__).parent / "examples.yaml").read_text(encoding="utf-8"))
    return next(study for study in every if study.train)


def test_a_training_is_made_for_each_combination_of_its_axes(example: Study) -> None:
    found = trainings(example, "O")
    assert [one.axes for one in found] == [
        {"interchange": weight, "seed": seed} for weight in (1.0, 0.0) for seed in (0, 1, 2)
    ]
    specs = [TrainSpec.from_json(one.spec) for one in found]
    assert [spec.losses[2].weight for spec in specs] == [1.0] * 3 + [0.0] * 3
    # The seed is that of the streams and, where the model has none of its own, of its weights.
    assert [(spec.seed, spec.model.options["seed"]) for spec in specs] == 2 * [(0, 0), (1, 1), (2, 2)]


def test_the_example_is_the_documents_training(example: Study) -> None:
    spec = TrainSpec.from_json(trainings(example, "O")[0].spec)
    assert spec.variables_of == {"T1": "O", "T2": "S2"}
    assert [(term.kind, term.head, term.delay, term.warmup) for term in spec.losses] == [
        ("task", "T1", 1, 100),
        ("task", "T2", 0, 0),
        ("interchange", "T2", 0, 0),
    ]
    assert spec.losses[2].draws == tuple(Draw((name,)) for name in ("w", "x", "y", "S1", "C1", "S2"))
    assert (spec.optimizer.name, spec.optimizer.options) == ("SGD", {"lr": 0.01, "momentum": 0.9})
    assert spec.alignment["S2"].dims == ("0:200",) and spec.alignment["S2"].layer == 1


def test_a_sweep_over_it_has_a_lane_for_each_training_and_output(example: Study) -> None:
    made, lanes = swept(example, {"iit": trainings(example, "O")})
    assert [lane.options for lane, _ in lanes] == [
        {"interchange": weight, "seed": seed, "read": read}
        for weight in (1.0, 0.0)
        for seed in (0, 1, 2)
        for read in ("T1", "T2")
    ]
    assert made.lanes() == tuple(lane for lane, _ in lanes)
    assert read_variables(lanes) == {"T1": "O", "T2": "S2"}


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        ("[S, x]", (Draw(("S",)), Draw(("x",)))),
        ("[[S, x], x]", (Draw(("S", "x")), Draw(("x",)))),
        ("{S: 3, x+S: 0.5}", (Draw(("S",), 3.0), Draw(("x", "S"), 0.5))),
    ],
)
def test_a_draw_is_a_list_of_lists_or_weights(draw: str, expected: tuple[Draw, ...]) -> None:
    study = load_study(train(f"{MODEL}, losses: [{{interchange: logits, draw: {draw}}}], {REST}"))
    spec = TrainSpec.from_json(trainings(study, "O")[0].spec)
    assert spec.losses[0].draws == expected and spec.variables_of == {"logits": "O"}
    assert load_study(study.to_yaml()) == study


AXES = (
    "model: {ref: 'zoo:mlp', width: $width, num_layers: 2, outputs: 28}, losses: [{task: logits}],"
    " alignment: {S: {site: block_output, layer: $at}}, for: [{width: 12, at: 0}, {width: 24, at: 1}],"
    " optimizer: {name: AdamW, lr: 0.1, betas: [0.9, 0.99]}, num_steps: 7, batch_size: 4, seeds: '0:2',"
    " l1: 0.001, schedule: {name: StepLR, step_size: 3}, measure_every: 5"
)


def test_places_widths_and_options_may_name_axes() -> None:
    specs = [TrainSpec.from_json(one.spec) for one in trainings(load_study(train(AXES)), "O")]
    assert [(s.model.options["width"], s.alignment["S"].layer, s.seed) for s in specs] == [
        (12, 0, 0),
        (12, 0, 1),
        (24, 1, 0),
        (24, 1, 1),
    ]
    assert (specs[0].num_epochs, specs[0].num_steps, specs[0].l1, specs[0].measure_every) == (
        None,
        7,
        1e-3,
        5,
    )
    assert specs[0].schedule == TorchClass("StepLR", {"step_size": 3})


def swept_at(study: Study, ref: str, trained: Study) -> list[tuple[list[int], list[str]]]:
    """The layers at which each block of the sweep interchanges S, and its models."""
    made, _ = swept(study, {ref: trainings(trained, "O")})
    return [
        (
            [one.layer for one in (block.alignment or {}).values()],
            [f"{model.options['at']} {model.options['seed']}" for model in block.models or ()],
        )
        for block in made.blocks()
    ]


def test_variables_are_interchanged_where_each_training_was_aligned() -> None:
    trained = load_study(train(AXES))
    assert swept_at(trained, "iit", trained) == [([0], ["0 0", "0 1"]), ([1], ["1 0", "1 1"])]
    text = train(AXES).replace(
        "variables: all", "variables: all, alignment: {S: {site: mlp_output, layer: 5}}"
    )
    assert swept_at(load_study(text), "iit", trained) == [([5], ["0 0", "0 1", "1 0", "1 1"])]


def test_models_of_another_study_are_aligned_as_there_unless_this_one_says_otherwise() -> None:
    ref, trained = "artifact:x/iit", load_study(train(AXES))
    more = (
        "study: more\ntask: {name: digit_sum, num_pairs: 9, seed: 0}\nsweep: [{model: REF, variables: all}]\n"
    ).replace("REF", ref)
    assert swept_at(load_study(more), ref, trained) == [([0], ["0 0", "0 1"]), ([1], ["1 0", "1 1"])]
    here = f"{more}alignment: {{S: {{site: mlp_output, layer: 5}}}}"
    assert swept_at(load_study(here), ref, trained) == [([5], ["0 0", "0 1", "1 0", "1 1"])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"losses: [{{task: logits}}], {REST}", "the key 'model' is missing; a training needs the network"),
        (f"{MODEL}, losses: [{{task: T1}}], {REST}", "no output 'T1'; allowed: logits"),
        (
            f"{MODEL}, losses: [{{interchange: logits, draw: [s]}}], {REST}",
            "the alignment has no 's'; allowed: S, x",
        ),
        (f"{MODEL}, losses: [{{interchange: logits}}], {REST}", "draw together with interchange"),
        (f"{MODEL}, losses: [{{task: logits, draw: [S]}}], {REST}", "draw together with interchange"),
        (f"{MODEL}, losses: [{{task: logits, weight: $w}}], {REST}", "no axis '$w'; allowed: $seed"),
        (
            f"{MODEL}, losses: [{{task: logits}}], {REST}, num_steps: 3",
            "exactly one of num_epochs, num_steps",
        ),
        (f"{MODEL}, losses: [{{task: logits}}], {REST}, seeds: [1]", "exactly one of seed, seeds"),
        (f"{MODEL}, losses: [{{task: logits}}], {REST.replace('SGD', 'AdmW')}", "did you mean 'AdamW'?"),
        (f"{MODEL}, losses: [{{task: logits}}], {REST.replace(', lr: 0.1', '')}", "the key 'lr' is missing"),
        (
            f"{MODEL}, losses: [{{task: logits}}], {REST}, schedule: {{name: OneCycle}}",
            "did you mean 'OneCycleLR'?",
        ),
        (
            f"{MODEL}, losses: [{{task: logits}}], {REST}, schedule: {{name: CyclicLR, max_lr: 0.1}}",
            "missing: 'base_lr'; a CyclicLR needs it beside its name",
        ),
        (
            "model: {ref: 'zoo:mlp', width: 24, num_layers: 2, outputs: {T: {classes: 3}}},"
            f" losses: [{{task: T}}], {REST}",
            "the key 'variables_of' is missing; it says which variable each of T predicts",
        ),
        (
            f"{MODEL}, losses: [{{task: logits}}], {REST}, for: {{iia: [1]}}",
            "'iia' is a column of the views already",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(train(text))
    assert message in str(caught.value) and ":6: train" in str(caught.value)


def test_a_training_without_a_causal_task_is_refused() -> None:
    pairs = "pairs: [{base_ids: [1], label: 1}]"
    text = train(f"{MODEL}, losses: [{{task: logits}}], {REST}")
    with pytest.raises(StudyError, match="a training needs a task with a causal model; here are pairs"):
        load_study(text.replace("task: {name: digit_sum, num_train: 20, num_test: 5, seed: 0}", pairs))


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("{model: iit, variables: all, read: T3}", "read 'T3': iit has T1, T2"),
        (
            "{model: {ref: 'artifact:x/iit', seed: 7}, variables: all}",
            "no training artifact:x/iit has seed 7",
        ),
        (
            "{model: {ref: iit, missing_weights: initialise, seed: 0}, variables: all}",
            "iit is trained here and lacks no weights; say missing_weights where its training names",
        ),
    ],
)
def test_what_no_training_leaves_is_refused(example: Study, sweep: str, message: str) -> None:
    text = example.to_yaml().partition("sweep:")[0] + f"sweep: [{sweep}]"
    made = trainings(example, "O")
    with pytest.raises(StudyError, match=message):
        swept(load_study(text), {"iit": made, "artifact:x/iit": made})


def _options(name: str) -> Mapping[str, Any]:
    more = {
        "OneCycleLR": {"max_lr": 0.1},
        "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "cycle_momentum": False},
        "CosineAnnealingWarmRestarts": {"T_0": 5},
        "ExponentialLR": {"gamma": 0.9},
        "MultiStepLR": {"milestones": [3]},
        "StepLR": {"step_size": 3},
    }
    return more.get(name, {})


def test_every_name_that_is_allowed_can_be_made() -> None:
    for name in OPTIMIZERS:
        optimizer_of(TorchClass(name, {"lr": 0.1}), [torch.nn.Parameter(torch.ones(2, 2))])
    for name in SCHEDULES:
        optimizer = optimizer_of(TorchClass("SGD", {"lr": 0.1}), [torch.nn.Parameter(torch.ones(2, 2))])
        assert schedule_of(TorchClass(name, _options(name)), optimizer, 10) is not None


@pytest.mark.parametrize(("name", "needed"), SCHEDULES.items())
def test_what_a_schedule_needs_is_what_torch_says(name: str, needed: tuple[str, ...]) -> None:
    _, *taken = inspect.signature(getattr(torch.optim.lr_scheduler, name)).parameters.values()
    assert needed == tuple(one.name for one in taken if one.default is one.empty and one.name != "T_max")


PLOTTED = f"{MODEL}, losses: [{{task: logits}}], {REST}"
UNALIGNED = "study: x\ntask: {name: digit_sum, num_train: 20, num_test: 5, seed: 0}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{train(PLOTTED)}plots: {{l: {{kind: curves, x: step}}}}",
            "plots.l.x: curves does not use 'x'; allowed: where, title",
        ),
        (
            f"{UNALIGNED}model: zoo:mlp\nsweep: [{{site: mlp_output, layer: 0, position: 0}}]\n"
            "plots: {c: {kind: curves}, a: {kind: alignment}}",
            "plots.c.kind: the study trains nothing",
        ),
        (
            f"{UNALIGNED}model: zoo:mlp\nsweep: [{{site: mlp_output, layer: 0, position: 0}}]\n"
            "plots: {a: {kind: alignment}}",
            "plots.a.kind: no block interchanges variables at the places of an alignment",
        ),
        (
            f"{UNALIGNED}train: {{iit: {{{PLOTTED}}}}}\nsweep: [{{model: itt, variables: all}}]",
            "give a site, or one. 'itt' is no training of the study, which has iit; did you mean 'iit'?",
        ),
        (
            train(f"{PLOTTED}, for: {{zz: [1, 2]}}"),
            "train.iit.for.zz: nothing uses this axis; write $zz where it is meant",
        ),
        (train(f"{PLOTTED.replace('0.1', '$r')}, for: {{r: [1, 1]}}"), "[1, 1] has a value twice"),
        (
            train(f"{PLOTTED.replace('0.1', '$layer')}, for: {{layer: [1]}}"),
            "is a column of the views already",
        ),
        (
            train(f"{PLOTTED}, alignment: {{}}"),
            "{} is not allowed here; allowed: a mapping that is not empty",
        ),
    ],
)
def test_what_a_study_of_trainings_cannot_have_is_one_message(text: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(text)
    assert message in str(caught.value) and "Train:1" not in str(caught.value)


def test_a_value_of_an_axis_that_cannot_be_is_told_where_it_is_used() -> None:
    text = train(f"{MODEL}, losses: [{{task: logits, weight: $w}}], {REST}, for: {{w: [high]}}")
    with pytest.raises(StudyError, match=r"^train\.iit: losses\[0\]\.weight: 'high' is not allowed here"):
        trainings(load_study(text), "O")
