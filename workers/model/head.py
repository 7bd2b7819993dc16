"""Logits at some tokens of a run, of the whole vocabulary or of some ids alone.

The head is given no token that is not read. Where its logits were seen to be nothing but its input times its
weight (plus its bias), logits of some ids take only their rows of the weight, and the head nothing at all.

Shapes: B rows, T tokens, R read positions, W width, V vocabulary, K ids.
"""

__all__ = ["LogitReader", "head_logits"]

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from workers.model.hooks import Tap, Visit


class LogitReader:
    """Reader of the logits at each row's `reads` in one forward.

    Args:
        head: the unembedding.
        tap: its input.
        reads: [B, R], tokens of those that run.
        ids: [K], whose logits are wanted; None where all are.
        visits: what else is done in the forward.
        is_plain: whether the head does nothing but multiply and add.
    """

    def __init__(
        self,
        head: nn.Module,
        tap: Tap,
        reads: Tensor,
        ids: Tensor | None,
        visits: Sequence[tuple[Tap, Visit]] = (),
        *,
        is_plain: bool,
    ) -> None:
        self._head = head
        self._rows = torch.arange(len(reads), device=reads.device)[:, None]
        self._reads = reads
        self._ids = ids
        # What the head returns cannot be changed, nor seen, where it is given nothing.
        is_seen = any(one.module == tap.module and one.side == "output" for one, _ in visits)
        self._is_short = ids is not None and is_plain and not is_seen
        self._given: Tensor | None = None
        self.visit: tuple[Tap, Visit] = (tap, self._gather)
        """Visit of the head's input, to come after all others."""

    def logits(self, made: Tensor) -> Tensor:
        """[B, R, V] or [B, R, K], from what the model's forward returned."""
        if self._given is not None:
            return head_logits(self._head, self._given, self._ids)
        return made if self._ids is None else made[..., self._ids]

    def _gather(self, hidden: Tensor, _: int) -> Tensor:
        read = hidden[self._rows, self._reads]  # [B, R, W]
        if not self._is_short:
            return read
        self._given = read
        return read[:, :0]


def head_logits(head: nn.Module, given: Tensor, ids: Tensor | None) -> Tensor:
    """Logits of `ids` that a plain head makes of its input [B, R, W]."""
    weight, bias = cast(Tensor, head.weight), cast(Tensor | None, getattr(head, "bias", None))
    return nn.functional.linear(given, weight[ids], None if bias is None else bias[ids])
