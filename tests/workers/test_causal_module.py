"""Promise: the wrapper's interchange at an anchor of a causal module is the causal model's own."""

import numpy as np
import pytest
import torch
from causal_models import models, some_inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.causal.model import CausalModel
from workers.causal.module import CausalModule
from workers.causal.named import digit_sum
from workers.errors import StudyError
from workers.intervene.intervenable import IntervenableModel
from workers.intervene.units import Unit


def test_the_numbers_of_the_document() -> None:
    net = IntervenableModel(CausalModule(digit_sum()))
    base, source = torch.tensor([[3, 6, 9]]), torch.tensor([[4, 4, 4]])
    assert net(base, source, units=[]).output.tolist() == [[18]]
    assert net(base, source, units=[Unit("x")]).output.tolist() == [[19]]
    assert net(base, source, units=[Unit("S")]).output.tolist() == [[17]]


@settings(deadline=None, max_examples=60)
@given(models(), st.integers(0, 99), st.data())
def test_vanilla_interchange_at_anchors_is_the_models_own(
    model: CausalModel, seed: int, data: st.DataObject
) -> None:
    """Any variables, each from one of two sources; later ones listed first or last."""
    runs = {name: some_inputs(model, 7, seed + at) for at, name in enumerate(("base", "source", "source_2"))}
    changed = data.draw(st.lists(st.sampled_from(model.variables), unique=True))
    taken = {name: data.draw(st.sampled_from(("source", "source_2"))) for name in changed}
    expected = model.interchange(runs["base"], {name: runs[run] for name, run in taken.items()})
    base, *sources = (torch.from_numpy(run) for run in runs.values())
    net = IntervenableModel(CausalModule(model))
    units = [Unit(name, from_=run) for name, run in taken.items()]
    found = net(base, {"source": sources[0], "source_2": sources[1]}, units=units).output
    wanted = np.stack([expected[name] for name in model.outputs], -1)
    np.testing.assert_array_equal(found.numpy(), wanted)


def test_every_variable_can_be_collected() -> None:
    net = IntervenableModel(CausalModule(digit_sum()))
    units = [Unit(name, intervention="collect") for name in ("x", "S", "O")]
    found = net(torch.tensor([[3, 6, 9], [1, 1, 1]]), units=units).collected
    assert [one.flatten().tolist() for one in found if isinstance(one, torch.Tensor)] == [
        [3, 1],
        [9, 2],
        [18, 3],
    ]


def test_a_value_larger_than_float32_counts_exactly_is_exact() -> None:
    model = CausalModel({"x": (1, 3)}, {"S": lambda x: x + 2**24, "O": lambda S: S - 2**24})  # noqa: N803
    net = IntervenableModel(CausalModule(model))
    assert net(torch.tensor([[1]]), torch.tensor([[3]]), units=[Unit("S")]).output.tolist() == [[3]]


def test_a_variable_that_no_anchor_can_be_called_is_refused() -> None:
    with pytest.raises(StudyError, match="no anchor can be called 'train'"):
        CausalModule(CausalModel({"x": (0, 1)}, {"train": lambda x: x}))
