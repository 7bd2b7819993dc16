"""Building of a built-in model from its config: its weights are the same on every machine."""

__all__ = ["build", "make"]

import math

import torch
from torch import Generator, Tensor, nn

from workers.libraries.torch import require_streams
from workers.zoo.base import ZooModel
from workers.zoo.configs import GPTConfig, GRUConfig, MLPConfig, ZooConfig, config_of
from workers.zoo.models import GPT, GRU, MLP


def make(name: str, **options: object) -> ZooModel:
    """A built-in model by name and options, as in ``make("mlp", width=32, num_layers=1, outputs=2, seed=0)``.

    `workers.zoo.configs` says which options there are. The model is in float32, on the CPU and in
    evaluation mode.

    Raises:
        ModelError: there is no such model, or an option is unknown, missing or impossible.
    """
    return build(config_of(name, options))


def build(config: ZooConfig) -> ZooModel:
    """The model of a config, in float32, on the CPU and in evaluation mode.

    The weights are drawn from a generator of their own: the caller's random state is left alone.

    Raises:
        RunError: this torch draws other weights from a seed than those before it.
    """
    require_streams()
    # Not on the meta device: that would import torch's compiler, which takes longer than all else here.
    with torch.random.fork_rng(devices=[]):
        model = _module(config)
    _fill(model, Generator().manual_seed(config.seed))
    return model.eval()


def _module(config: ZooConfig) -> ZooModel:
    if isinstance(config, MLPConfig):
        return MLP(config)
    if isinstance(config, GRUConfig):
        return GRU(config)
    assert isinstance(config, GPTConfig)
    return GPT(config)


@torch.no_grad()
def _fill(model: nn.Module, generator: Generator) -> None:
    """Uniform weights only: a normal draw on a CPU depends on its vector instructions in the last digit.

    Linear maps have torch's own bounds (1 / √inputs, which for a GRU is 1 / √width), embeddings unit
    variance, norms start as the identity.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            for drawn in (module.weight, module.bias):
                _draw(drawn, 1 / math.sqrt(module.in_features), generator)
        elif isinstance(module, nn.Embedding):
            _draw(module.weight, math.sqrt(3), generator)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()


def _draw(parameter: Tensor | None, bound: float, generator: Generator) -> None:
    if parameter is not None:
        parameter.uniform_(-bound, bound, generator=generator)
