"""Facts of a model that are known before its weights are read. No torch here."""

__all__ = ["ModelFacts", "Reads"]

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Reads = Literal["token", "run"]
"""Whether a model has logits at each token (or time step), or once for the whole run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A resolved model reference: read from ``config.json`` and the tokeniser, or from the options of a
    built-in model, never from weights.

    A *language model* predicts a token of its vocabulary at each token: a label is a token id, and a cell
    reads at one token. A *classifier* (``num_classes``) predicts a class: a label is the index of a class.
    Where it has logits once for the whole run (``reads == "run"``), there is one place to read, and a cell's
    ``read`` says nothing.
    """

    ref: str
    """As the study names it."""
    revision: str
    """A hub commit, or for local files the hash of their contents."""
    dtype: str
    folder: Path | None
    """Folder of ``config.json``, the tokeniser and (once fetched) the weights; None for a built-in model,
    which has none of them: its pairs are given as token ids or as vectors."""
    model_type: str
    """The family's name in the transformers library, such as ``llama``; ``zoo:NAME`` of a built-in model."""
    num_layers: int
    num_heads: int
    """0 where there are none."""
    num_kv_heads: int
    width: int
    """Size of the residual stream."""
    vocab_size: int | None
    """Number of token ids; None where it is given vectors only."""
    num_parameters: int
    """Estimated from the shape; used for costs and memory only."""
    num_classes: int | None = None
    """Number of classes of a classifier; None for a language model."""
    reads: Reads = "token"
    head_width: int | None = None
    """Size of a head of the attention; None where only the loaded model tells."""
    num_neurons: int | None = None
    """Size of an MLP's hidden layer; None where only the loaded model tells."""
    input_width: int | None = None
    """Size of the vectors that may take the place of tokens; None where only the loaded model tells."""
    residual_multiplier: float = 1.0
    """Factor by which a block multiplies the outputs of its attention and its MLP before it adds them, as far
    as the config says."""
    depends_on_length: bool = False
    """Whether what a token makes depends on how long its prompt is, as with rotary embeddings that are
    scaled by it: then equal beginnings make equal values in prompts of one length only."""

    max_positions: int | None = None
    """Most tokens that a prompt may have, or, without a table of them, was trained to have; None where the
    config does not say."""
    has_position_table: bool = False
    """Whether positions are rows of a table, so that a longer prompt cannot run at all."""

    @property
    def num_logits(self) -> int:
        """Number of classes, or of tokens, that a prediction is chosen from: labels are below it."""
        num_logits = self.num_classes or self.vocab_size
        assert num_logits is not None, "a language model has a vocabulary"
        return num_logits

    @property
    def is_hashed(self) -> bool:
        """Whether the revision is a SHA-256 of files or options (64 digits), not a commit (40)."""
        return len(self.revision) == 64
