"""Promise: of a model whose logits are no numbers the weights that hold none are named, or the dtype is."""

import torch
from torch import nn

from workers.model.weight_values import why_not_finite


def made(**numbers: float) -> nn.Module:
    module = nn.ModuleDict({name: nn.Linear(2, 3) for name in ("one", "two")})
    for name, number in numbers.items():
        with torch.no_grad():
            module.get_parameter(f"{name}.weight")[1, 1] = number
    return module


def test_the_tensors_that_hold_nan_or_infinity_are_named_with_how_many() -> None:
    said = why_not_finite(made(one=float("nan"), two=float("-inf")))
    assert said.startswith(
        "one.weight holds NaN (1 of 6 numbers), two.weight holds infinity (1 of 6 numbers); fetch or save"
    )


def test_where_all_weights_are_finite_the_dtype_is_named() -> None:
    assert why_not_finite(made().bfloat16()) == (
        "all weights are finite, so numbers grow too large for bfloat16; try dtype: float32"
    )
