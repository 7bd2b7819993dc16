"""Checkpoint of a training, from which it goes on: tensors as safetensors, the rest as plain data."""

__all__ = ["TrainingState", "joined", "parted", "restore", "tensors_of"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from workers.errors import StoreError


@dataclass(frozen=True, slots=True)
class TrainingState:
    """State of a training after some of its steps."""

    tensors: bytes
    """Safetensors."""
    meta: Mapping[str, Any]
    """Plain data, for JSON."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> "TrainingState":
        """From tensors on any device."""
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return cls(safetensors.torch.save(kept), meta)

    def read(self) -> dict[str, Tensor]:
        """The tensors, in main memory.

        Raises:
            StoreError: they are damaged.
        """
        try:
            return safetensors.torch.load(self.tensors)
        except SafetensorError as error:
            raise StoreError(f"the tensors of a training's state cannot be read: {error}") from error


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, shared ones once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def parted(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as plain data; its tensors go to `tensors`, under names that begin with `name`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        items = [[key, parted(item, f"{name}.{key}", tensors)] for key, item in value.items()]
        return {"items": items}
    if isinstance(value, list | tuple):
        listed = [parted(item, f"{name}.{at}", tensors) for at, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": listed}
    return value


def joined(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Join what `parted` took apart."""
    if not isinstance(plain, Mapping):
        return plain
    ((form, content),) = plain.items()
    if form == "tensor":
        return tensors[content]
    if form == "items":
        return {key: joined(item, tensors) for key, item in content}
    return (tuple if form == "tuple" else list)(joined(item, tensors) for item in content)


@torch.no_grad()
def restore(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put the values of `tensors_of` back.

    Raises:
        StoreError: they are those of another network.
    """
    own = tensors_of(module)
    if {name: tensor.shape for name, tensor in own.items()} != {n: t.shape for n, t in tensors.items()}:
        raise StoreError("the state is that of another network; resume with the spec that it was made with")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])
