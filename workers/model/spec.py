"""Specification of a study's model: its reference, and the way it is loaded. No torch here."""

__all__ = ["ModelSpec"]

import json
from collections.abc import Collection, Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from workers.libraries.pydantic import CarryingError


class ModelSpec(BaseModel):
    """Model of a study, and the way it is loaded.

    Identity: ``ref``, ``revision``, ``dtype``, ``options``, and where they are given ``missing_weights`` and
    ``seed``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: str
    """An alias, a hub id, a local folder, ``zoo:NAME`` or ``artifact:NAME``."""
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "auto"
    """``auto`` takes a CUDA device where there is one; provenance, no part of identity."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """The library's kernel; None lets it choose. Provenance, no part of identity."""
    chat: bool = False
    trust_remote_code: bool = False
    """Whether Python code in the model's folder may be run. It is said for one run, and never kept: written
    down it is false, whatever it is here."""
    missing_weights: Literal["initialise"] | None = None
    """``initialise`` draws the tensors that the checkpoint gives no value from ``seed``, as the model's class
    begins them, and leaves out those that the model has no place for; None refuses such a checkpoint."""
    seed: int | None = Field(default=None, ge=0)
    """Of ``missing_weights``; that of a built-in model is one of its options."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """Options of a built-in model (``width``, ``num_layers``, ``seed``, …)."""

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        """Whether weights may be missing at all, and what is drawn in their place."""
        if wrong := _why_not_drawn(self.ref, self.missing_weights, self.seed):
            raise CarryingError(wrong, "weights")
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plans look as they did before there were these keys, where they are not given."""
        unused = ("missing_weights", "seed") if self.missing_weights is None else ()
        kept = {key: value for key, value in plain(self).items() if key not in unused}
        return {**kept, "trust_remote_code": False} if "trust_remote_code" in kept else kept

    @classmethod
    def stored(cls, data: Mapping[str, Any]) -> Self:
        """The spec that was written down; whether its code may be run no file says."""
        return cls.model_validate({**data, "trust_remote_code": False})

    def trusting(self, refs: Collection[str]) -> Self:
        """The same model, whose code may be run if its reference is one of `refs`."""
        if self.trust_remote_code or self.ref not in refs:
            return self
        return self.model_copy(update={"trust_remote_code": True})

    @property
    def title(self) -> str:
        """Name that tells it from others in views: the reference, with options ``zoo:mlp(seed=0,
        width=8)``."""
        drawn = {} if self.missing_weights is None else {"missing_weights": "initialise", "seed": self.seed}
        said = {**self.options, **drawn}
        options = ", ".join(f"{name}={json.dumps(said[name])}" for name in sorted(said))
        return f"{self.ref}({options})" if options else self.ref


def _why_not_drawn(ref: str, missing_weights: str | None, seed: int | None) -> str | None:
    """Fault of these keys of a model; None where there is none."""
    made = {"zoo": "a built-in model", "artifact": "a trained model"}.get(ref.partition(":")[0])
    if missing_weights is None and seed is None:
        return None
    if made is not None and missing_weights is not None:
        return f"{made} lacks no weights: leave missing_weights out"
    if made is not None:
        return f"the seed of {made} is one of its options"
    if missing_weights is None:
        return "the key 'seed' goes with missing_weights: initialise; add that, or leave the seed out"
    if seed is None:
        return "the key 'seed' is missing; missing_weights: initialise draws from one, such as seed: 0"
    return None
