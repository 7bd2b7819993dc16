"""A gated recurrent unit written out, one example and one step at a time: imports torch only.

The weights are those of a torch.nn.GRU, the names of the values those of the study language. Shapes: T
steps, W width.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Touch = Callable[[str, int, int, Tensor], Tensor]
"""Called with (site, layer, step, value [W]); returns the value that the network goes on with."""

SITES = ("cell_input", "reset_gate_output", "update_gate_output", "new_gate_output", "cell_output")


def untouched(site: str, layer: int, step: int, value: Tensor) -> Tensor:
    return value


def states(gru: nn.GRU, given: Tensor, touch: Touch = untouched) -> Tensor:
    """The last layer's states [T, W] of one run that is given [T, W]."""
    weights = dict(gru.named_parameters())
    for layer in range(gru.num_layers):
        state = torch.zeros(gru.hidden_size)
        found = []
        for step in range(len(given)):
            state = cell(weights, layer, step, given[step], state, touch)
            found.append(state)
        given = torch.stack(found)
    return given


def cell(
    weights: Mapping[str, Tensor], layer: int, step: int, given: Tensor, state: Tensor, touch: Touch
) -> Tensor:
    """The state [W] after one step."""
    given = touch("cell_input", layer, step, given)
    x = weights[f"weight_ih_l{layer}"] @ given + weights[f"bias_ih_l{layer}"]
    h = weights[f"weight_hh_l{layer}"] @ state + weights[f"bias_hh_l{layer}"]
    width = len(state)
    reset = 1 / (1 + torch.exp(-(x[:width] + h[:width])))
    reset = touch("reset_gate_output", layer, step, reset)
    update = 1 / (1 + torch.exp(-(x[width : 2 * width] + h[width : 2 * width])))
    update = touch("update_gate_output", layer, step, update)
    new = torch.tanh(x[2 * width :] + reset * h[2 * width :])
    new = touch("new_gate_output", layer, step, new)
    return touch("cell_output", layer, step, (1 - update) * new + update * state)


def record(gru: nn.GRU, given: Tensor) -> dict[tuple[str, int, int], Tensor]:
    """Every value of a clean run, by site, layer and step."""
    values: dict[tuple[str, int, int], Tensor] = {}

    def touch(site: str, layer: int, step: int, value: Tensor) -> Tensor:
        values[site, layer, step] = value
        return value

    states(gru, given, touch)
    return values


def swapped(
    gru: nn.GRU, base: Tensor, source: Tensor, site: str, layer: int, steps: Mapping[int, int]
) -> Tensor:
    """The states [T, W] of `base` with `site` at each of `steps` as it is in `source` at its step there."""
    there = record(gru, source)

    def touch(found: str, at_layer: int, step: int, value: Tensor) -> Tensor:
        is_here = (found, at_layer) == (site, layer) and step in steps
        return there[site, layer, steps[step]] if is_here else value

    return states(gru, base, touch)
