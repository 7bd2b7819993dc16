"""What is known of a model before its weights are read. No torch here."""

__all__ = ["ModelFacts"]

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A resolved model reference: read from ``config.json`` and the tokeniser, never from weights."""

    ref: str
    """As the study names it."""
    revision: str
    """A hub commit, or for local files the hash of their contents."""
    dtype: str
    folder: Path
    """Where ``config.json``, the tokeniser and (once fetched) the weights lie."""
    model_type: str
    """The family's name in the transformers library, such as ``llama``."""
    num_layers: int
    num_heads: int
    num_kv_heads: int
    width: int
    """Size of the residual stream."""
    vocab_size: int
    num_parameters: int
    """Estimated from the shape; used for costs and memory only."""

    @property
    def is_hashed(self) -> bool:
        """Whether the revision is the SHA-256 of local files (64 digits), not a commit (40)."""
        return len(self.revision) == 64
