"""Description of a file's autoencoder by its tensors and a config beside it, and checks of such configs."""

__all__ = ["Config", "Reading", "check_k", "check_keys", "check_sizes", "flag", "wrong"]

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.autoencoders.kinds import AutoencoderKind, TensorFacts, Tensors, is_said_in_training
from workers.errors import StudyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Kind and tensors of one file."""

    kind: AutoencoderKind
    tensors: Tensors
    centered: bool | None
    """Whether the decoder's bias is taken off before encoding; None where nothing says it."""
    centered_by: str = ""
    """Source of that, for errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A config beside a file of tensors."""

    path: Path
    data: Mapping[str, object]
    weights: Path
    facts: Mapping[str, TensorFacts]
    """Of the tensors of `weights`."""


def wrong(where: object, key: str, why: str) -> StudyError:
    """The error of a key, or of a tensor, that cannot be followed."""
    return StudyError(f"{where}: {key}: {why}")


def check_keys(
    where: object,
    data: Mapping[str, object],
    *,
    used: Collection[str],
    unused: Collection[str],
    prefix: str = "",
) -> None:
    """Refuse a key that nobody knows, unless its name tells that it is about training.

    Raises:
        StudyError: naming it.
    """
    for key in data:
        if key not in used and key not in unused and not is_said_in_training(key):
            raise wrong(
                where,
                f"{prefix}{key}",
                "this version does not know the key, and the features may hang on it; take it out if they do"
                " not",
            )


def check_sizes(where: object, data: Mapping[str, object], sizes: Mapping[str, int]) -> None:
    """Refuse sizes other than those of the tensors.

    Raises:
        StudyError: naming the key.
    """
    for key, there in sizes.items():
        if key not in data:
            raise wrong(where, key, "is missing; it has to be that of the tensors")
        if data[key] != there:
            raise wrong(where, key, f"{data[key]!r}, and the tensors have {there}")


def check_k(where: object, key: str, k: object, num_features: int, *, is_whole: bool = True) -> None:
    """Refuse what is no number of features.

    Raises:
        StudyError: naming the key.
    """
    kinds: tuple[type, ...] = (int,) if is_whole else (int, float)
    if isinstance(k, bool) or not isinstance(k, kinds) or not 0 < k <= num_features:  # type: ignore[operator]
        number = "whole number" if is_whole else "number"
        raise wrong(
            where, key, f"{k!r} is no {number} of features above 0 and up to the {num_features} there are"
        )


def flag(where: object, data: Mapping[str, object], key: str, *, missing: bool) -> bool:
    """A key that is true or false.

    Raises:
        StudyError: it is something else.
    """
    found = data.get(key, missing)
    if not isinstance(found, bool):
        raise wrong(where, key, f"{found!r} is not known; known are true and false")
    return found
