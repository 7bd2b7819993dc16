"""KV cache of a resumed forward, as a cache class of the transformers library.

Attention sees the cached keys and values of the tokens before those that run, then the new ones; a callback
can record them, which is how the cache is filled in the first place. It keeps every key and value of all
tokens, so no layer is a sliding one to the library: its masks then cut the window, whatever the layer.

Shapes: n rows that have begun, S slots, H heads, T tokens, p tokens before those that run, D width.
"""

__all__ = ["CachedPrefix", "Keep", "RunCache"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.libraries.transformers import cache_class, layer_class

_CacheClass: Any = cache_class()
_LayerClass: Any = layer_class()

Keep = Callable[[int, Tensor, Tensor], None]
"""Callback that gets the number of a layer, with the keys and values [n, H, T, D] of all tokens."""


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """Cached keys and values of the tokens before those that run."""

    num_tokens: int
    """p."""
    keys: Sequence[Tensor | None]
    """Keys of each layer [S, H, at least p, D]; None for those that are not asked."""
    values: Sequence[Tensor | None]
    slots: Tensor
    """[n], those of the rows in the order in which they begin. A layer that is given fewer rows has the first
    of them."""


class RunCache(_CacheClass):  # type: ignore[misc]
    """KV cache of one run.

    Args:
        num_layers: of the model.
        before: what came before; None where the run is a whole one.
        keep: is told what each layer holds, as soon as it does.
    """

    def __init__(self, num_layers: int, before: CachedPrefix | None = None, keep: Keep | None = None) -> None:
        super().__init__(layers=[_Layer(number, before, keep) for number in range(num_layers)])


class _Layer(_LayerClass):  # type: ignore[misc]
    def __init__(self, number: int, before: CachedPrefix | None, keep: Keep | None) -> None:
        super().__init__()
        self.is_initialized = True
        self._number = number
        self._before = before
        self._keep = keep

    def get_seq_length(self) -> int:
        """Number of tokens before those that run."""
        return 0 if self._before is None else self._before.num_tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of tokens that attention sees, and the first of them."""
        return self.get_seq_length() + query_length, 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens, cached ones before new ones: [n, H, T, D] each."""
        if self._before is not None and self._before.num_tokens:
            before, number = self._before, self._number
            key_states = _after(before.keys[number], before, key_states)
            value_states = _after(before.values[number], before, value_states)
        if self._keep is not None:
            self._keep(self._number, key_states, value_states)
        return key_states, value_states


def _after(held: Tensor | None, before: CachedPrefix, new: Tensor) -> Tensor:
    """Join the first tokens of `held` in the rows' slots with `new`: each is copied once."""
    assert held is not None
    num_rows, first = new.shape[0], before.num_tokens
    whole = new.new_empty(num_rows, new.shape[1], first + new.shape[2], new.shape[3])
    torch.index_select(held[:, :, :first], 0, before.slots[:num_rows], out=whole[:, :, :first])
    whole[:, :, first:] = new
    return whole
