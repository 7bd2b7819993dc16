"""A causal model as a module: every variable is an anchor that units name and can change.

    net = IntervenableModel(CausalModule(model))
    net(base, source, units=[Unit("S")]).output

Shapes: B examples, I inputs, O outputs.
"""

__all__ = ["CausalModule"]

import torch
from torch import Tensor, nn

from workers.causal.model import CausalModel
from workers.errors import StudyError


class CausalModule(nn.Module):
    """Runs a causal model; what passes the anchor of a variable is its value [B], an int64 tensor.

    Raises:
        StudyError: a variable is called as something that every module has, such as ``train``.
    """

    def __init__(self, model: CausalModel) -> None:
        super().__init__()
        self.model = model
        for name in model.variables:
            if hasattr(self, name):
                raise StudyError(
                    f"no anchor can be called {name!r}, which every module has; rename the variable"
                )
            self.add_module(name, nn.Identity())

    def forward(self, inputs: Tensor) -> Tensor:
        """The outputs [B, O] of inputs [B, I], in the model's order.

        Raises:
            StudyError: not as many inputs, one outside its domain, or a mechanism that fails.
        """
        given = self.model.columns(inputs.cpu().numpy())
        found: dict[str, Tensor] = {}
        for name in self.model.variables:
            value = given.get(name)
            if value is None:
                parents = (found[parent].cpu().numpy() for parent in self.model.parents[name])
                value = self.model.compute(name, *parents)
            found[name] = self.get_submodule(name)(torch.tensor(value, device=inputs.device))
        return torch.stack([found[name] for name in self.model.outputs], -1)
