"""What a fit is made of, for whoever makes it. No torch here."""

__all__ = ["Example", "FitSpec"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from workers.vocabulary import Pair


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSpec:
    """A method, where it is applied, and its settings; those that it does not use are None."""

    method: str
    """``das``, ``boundless``, ``mask``, ``mean``, ``mean_difference``, ``pca``, ``probe``,
    ``random_rotation`` or ``sae``."""
    site: str
    layer: int | None = None
    heads: tuple[int, ...] | None = None
    rank: int | None = None
    """How many directions; None for the whole width."""
    num_steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    """Of Adam."""
    temperature: tuple[float, float] | None = None
    """At the first and at the last step, linear in between."""
    penalty: float | None = None
    """What the share of the coordinates that is exchanged adds to the loss, times this."""
    of: str | None = None
    """The run whose values are taken; None for the base's and the source's."""
    by_position: bool = False
    """Whether a mean is one for each token, counted from 0."""
    seed: int | None = None
    path: str | None = None
    """Of the file of a sparse autoencoder."""
    sha256: str | None = None
    """Of its bytes."""
    centered: bool = False
    """Whether its decoder's bias is taken off before encoding."""
    kind: Mapping[str, Any] | None = None
    """How its features are computed, as `workers.autoencoders.kinds.Kind` is written; None where it is as the
    names of the file's tensors alone say."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From plain data, with lists for tuples; what is not there is None."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Example:
    """A pair that a fit is made from, or measured on."""

    pair: Pair
    tokens: Mapping[str, tuple[int, ...]]
    """In each run, the tokens at which the fit looks, in order."""
    read: int
    """The base's token whose next-token logits are compared with the label."""
    classes: tuple[str | None, str | None] = (None, None)
    """Of the base and of the source, for methods that tell two classes apart."""
