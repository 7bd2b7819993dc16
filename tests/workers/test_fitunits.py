"""Promise: in a notebook a fit takes a few lines, and gives a unit that is ready to use."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.workers.fits import classifier, hidden, planted
from tests.workers.tiny import tiny_module
from tests.workers.zoo import vectors
from workers.errors import RunError, StudyError
from workers.fits.units import fit
from workers.intervene.features import PCA
from workers.intervene.intervenable import IntervenableModel
from workers.intervene.subspaces import LowRankRotation, Rotation
from workers.intervene.units import Unit

MODEL = classifier()
NET = IntervenableModel(MODEL.module)
LAYER = Unit("block_output", layer=0, position=0)


def columns(num: int, seed: int) -> dict[str, Tensor]:
    """Random vectors; the label is the class that the model gives the source."""
    base, source = (vectors(num, 1, 16, seed=2 * seed + more) for more in (0, 1))
    with torch.no_grad():
        return {
            "base": base,
            "source": source,
            "label": MODEL.module(inputs_embeds=source).logits[:, 0].argmax(-1),
        }


def test_das_in_a_few_lines() -> None:
    fitted = fit(
        NET, LAYER, columns(256, 1), method="das", rank=1, num_steps=200, lr=0.02, held_out=columns(100, 2)
    )
    assert isinstance(fitted.content, LowRankRotation)
    assert abs(float(fitted.content.weight.detach()[:, 0] @ planted(MODEL))) > 0.98
    assert fitted.report.held_out_iia is not None and fitted.report.held_out_iia > 0.95
    test = columns(50, 3)
    logits = NET(test["base"], test["source"], units=[fitted.unit]).logits[:, 0]
    assert float((logits.argmax(-1) == test["label"]).float().mean()) > 0.9


@pytest.mark.parametrize("method", ["boundless", "mask"])
def test_the_other_trained_methods_take_the_same_pairs(method: str) -> None:
    fitted = fit(NET, LAYER, columns(64, 1), method=method, num_steps=5, held_out=columns(8, 2))
    assert fitted.report.num_held_out == 8 and fitted.report.num_pairs == 64


def test_pairs_may_be_a_list_of_texts_or_ids_of_unequal_lengths() -> None:
    net = IntervenableModel(tiny_module("gpt2"))
    pairs = [
        {"base": [1, 2, 3], "source": [4, 5, 6, 7], "label": 9},
        {"base": [1, 2, 3, 8], "source": [4, 7], "label": [9, 10]},
    ]
    unit = Unit("block_output", layer=1, position=-1)
    fitted = fit(net, unit, pairs, method="das", rank=4, num_steps=3, held_out=pairs)
    assert fitted.report.num_pairs == 2 and fitted.report.held_out_iia is not None


def test_vectors_become_the_units_value() -> None:
    given = columns(32, 1)
    base, source = (hidden(MODEL, given[run]).detach().mean(0) for run in ("base", "source"))
    mean = fit(NET, LAYER, given, method="mean").content
    difference = fit(NET, LAYER, given, method="mean_difference")
    assert isinstance(mean, Tensor) and isinstance(difference.content, Tensor)
    torch.testing.assert_close(mean, base, atol=1e-6, rtol=0)
    torch.testing.assert_close(difference.content, source - base, atol=1e-6, rtol=0)
    assert difference.unit.from_ is difference.content


def test_pca_and_a_random_rotation_need_no_labels() -> None:
    given = {"base": columns(32, 1)["base"]}
    assert isinstance(fit(NET, LAYER, given, method="pca", rank=2).content, PCA)
    drawn = fit(NET, LAYER, given, method="random_rotation", seed=3)
    assert isinstance(drawn.content, Rotation) and drawn.report.num_pairs == 0


def test_a_trained_fit_takes_the_values_of_the_run_that_it_is_told() -> None:
    given = columns(16, 1)
    told = fit(
        NET, LAYER, {**given, "source_2": given["base"]}, method="das", rank=1, num_steps=2, of="source_2"
    )
    alike = fit(NET, LAYER, {**given, "source": given["base"]}, method="das", rank=1, num_steps=2)
    other = fit(NET, LAYER, given, method="das", rank=1, num_steps=2)
    assert told.report.loss == alike.report.loss != other.report.loss


def test_any_module_can_be_fitted_by_path() -> None:
    torch.manual_seed(0)
    net = IntervenableModel(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)))
    given: dict[str, Any] = {"base": torch.randn(16, 4), "source": torch.randn(16, 4), "label": [0, 1] * 8}
    fitted = fit(net, Unit("1", position=0), given, method="das", rank=1, num_steps=2)
    assert net(given["base"], given["source"], units=[fitted.unit]).output.shape == (16, 2)


@pytest.mark.parametrize(
    ("method", "pairs", "error", "text"),
    [
        ("das2", columns(4, 1), StudyError, "there is no method 'das2'.*did you mean 'das'"),
        ("das", {"base": columns(4, 1)["base"]}, RunError, "the pairs have no 'label'|no 'source'"),
        ("das", {**columns(1, 1), "label": [" Rome"]}, RunError, "the model has no tokenizer"),
        ("das", {**columns(4, 1), "label": [0, 9, 0, 0]}, RunError, "the label 9: the model predicts 0 to"),
        ("das", {**columns(4, 1), "label": [-1] * 4}, RunError, "the label -1: the model predicts 0 to"),
        ("mean", {}, RunError, "the pairs have no 'base'"),
    ],
)
def test_what_cannot_be_is_an_error(method: str, pairs: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        fit(NET, LAYER, pairs, method=method, rank=1)
