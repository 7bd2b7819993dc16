"""What a model makes of the end of a prompt, and tokens as people read them.

Shapes: B examples, T tokens, V vocabulary.
"""

__all__ = ["format_token", "last_logits"]

import torch
from torch import Tensor

from workers.wrapper.inputs import Inputs, TextTokenizer


def last_logits(logits: Tensor, inputs: Inputs) -> Tensor:
    """The logits [B, V] at each example's last own token, of logits [B, T, V], [B, 1, V] or [B, V]."""
    if logits.dim() == 2:
        return logits
    if logits.shape[1] == 1 or not inputs.spans:
        return logits[:, -1]
    last = torch.tensor([end - 1 for _, end in inputs.spans], device=logits.device)
    return logits[torch.arange(len(logits), device=logits.device), last]


def format_token(tokenizer: TextTokenizer | None, token_id: int) -> str:
    """A token as text in which spaces (``_``) and line ends can be seen; without a tokenizer its number."""
    if tokenizer is None:
        return str(token_id)
    return tokenizer.decode([token_id]).replace(" ", "_").replace("\n", "\\n").replace("\t", "\\t")
