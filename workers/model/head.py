"""What is read of a run: logits at some tokens, of the whole vocabulary or of some ids alone.

The head is given no token that is not read. Where its logits were seen to be nothing but its input times its
weight (plus its bias), logits of some ids take only their rows of the weight, and the head nothing at all.

Shapes: B rows, T tokens, R read positions, W width, V vocabulary, K ids.
"""

__all__ = ["Reading", "is_plain_head"]

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workers.model.hooks import Tap, Visit, visiting

if TYPE_CHECKING:
    from workers.model.loading import LoadedModel

_LOUD = 100.0
"""Makes logits so large that one that is bent or capped shows."""


class Reading:
    """Takes the logits at each row's `reads` in one forward.

    Args:
        model: which model.
        reads: [B, R], tokens of those that run.
        ids: [K], whose logits are wanted; None where all are.
        visits: what else is done in the forward.
    """

    def __init__(
        self,
        model: "LoadedModel",
        reads: Tensor,
        ids: Tensor | None,
        visits: Sequence[tuple[Tap, Visit]] = (),
    ) -> None:
        self._head: Any = model.module.get_submodule(model.head.module)
        self._rows = torch.arange(len(reads), device=reads.device)[:, None]
        self._reads = reads
        self._ids = ids
        # What the head returns cannot be changed, nor seen, where it is given nothing.
        is_seen = any(tap.module == model.head.module and tap.side == "output" for tap, _ in visits)
        self._is_short = ids is not None and model.has_plain_head and not is_seen
        self._given: Tensor | None = None
        self.visit: tuple[Tap, Visit] = (model.head, self._gather)
        """To come after all others."""

    def logits(self, made: Tensor) -> Tensor:
        """[B, R, V] or [B, R, K], from what the model's forward returned."""
        if self._given is not None:
            return _rows_of(self._head, self._given, self._ids)
        return made if self._ids is None else made[..., self._ids]

    def _gather(self, hidden: Tensor, _: int) -> Tensor:
        read = hidden[self._rows, self._reads]  # [B, R, W]
        if not self._is_short:
            return read
        self._given = read
        return read[:, :0]


def is_plain_head(module: nn.Module, head: Tap, tokens: Tensor, forward: Callable[[Tensor], Tensor]) -> bool:
    """Whether logits are the head's input times its weight, plus its bias; large ones as well as small.

    Args:
        module: the model.
        head: what its unembedding is given.
        tokens: [1, T], any two or more.
        forward: gives the logits [1, T, V] of token ids.
    """
    unembedding: Any = module.get_submodule(head.module)
    weight, bias = getattr(unembedding, "weight", None), getattr(unembedding, "bias", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2 or not isinstance(bias, Tensor | None):
        return False
    given: list[Tensor] = []

    def amplify(hidden: Tensor, _: int) -> Tensor:
        loud = hidden.clone()
        loud[:, 1:] *= _LOUD
        given.append(loud)
        return loud

    with torch.inference_mode(), visiting(module, [(head, amplify)]):
        logits = forward(tokens)
    if len(given) != 1 or given[0].shape[-1] != weight.shape[1] or logits.shape[-1] > weight.shape[0]:
        return False
    bound = max(1e-5, 4 * torch.finfo(logits.dtype).eps)
    off = (_rows_of(unembedding, given[0], torch.arange(logits.shape[-1])) - logits).abs().amax(-1)
    return bool((off <= bound * logits.abs().amax(-1)).all())


def _rows_of(head: Any, given: Tensor, ids: Tensor | None) -> Tensor:
    """The logits of `ids`."""
    bias: Tensor | None = getattr(head, "bias", None)
    return nn.functional.linear(given, head.weight[ids], None if bias is None else bias[ids])
