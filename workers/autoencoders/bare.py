"""Files without a config: what the names of their tensors give away of how the features are computed.

A file that could be of two kinds, or needs what only a config has, is refused; none is read as a plain ReLU
for want of one.
"""

__all__ = ["read_bare"]

from collections.abc import Mapping

from workers.autoencoders.dictionary_learning import check_threshold
from workers.autoencoders.files import TensorFacts
from workers.autoencoders.kinds import (
    FACTORS,
    PLAIN,
    ROLES,
    Activation,
    Kind,
    Role,
    check_shapes,
    old_form,
    tensors_of,
)
from workers.autoencoders.reading import Reading
from workers.autoencoders.words import is_said_in_training
from workers.errors import StudyError

_GATED = ("r_mag", "b_gate", "b_mag", "gate_bias", "mag_bias")
_GATED_CENTERED = ("gate_bias", "mag_bias")
"""Of dictionary_learning, whose gated ones are always centred."""
_BIASES: tuple[Role, ...] = ("encoder_bias", "decoder_bias")


def read_bare(where: str, facts: Mapping[str, TensorFacts]) -> Reading:
    """How the features of a file are computed, as far as its tensors tell.

    Raises:
        StudyError: it holds no autoencoder, or not enough to know which.
    """
    if any(name in facts for name in _GATED):
        tensors = tensors_of(where, facts, ROLES["gated"], what="a gated autoencoder")
        is_said = any(name in facts for name in _GATED_CENTERED)
        return Reading(
            kind=Kind(activation="gated"),
            tensors=tensors,
            centered=True if is_said else None,
            centered_by=f"{_GATED_CENTERED[0]} in {where}",
        )
    if "k" in facts:
        return _matryoshka(where, facts)
    if "topk_threshold" in facts:
        raise _needs_config(where, "topk_threshold", "a BatchTopK of SAELens", "cfg.json")
    if "bias" in facts and "encoder.weight" in facts:
        return _dictionary(where, facts)
    if "log_threshold" in facts:
        return _of("jumprelu", where, facts, "a JumpReLU")
    if "b_dec" in facts and "encoder.weight" in facts:
        raise _needs_config(where, "b_dec beside encoder.weight", "a TopK or BatchTopK", "config.json")
    return _plain(where, facts)


def _plain(where: str, facts: Mapping[str, TensorFacts]) -> Reading:
    names = old_form(facts)
    if names is None:
        held = ", ".join(sorted(facts)[:8]) or "nothing"
        raise StudyError(
            f"{where} holds {held}; a sparse autoencoder is encoder.weight [features, width] and"
            " decoder.weight [width, features], or W_enc [width, features] and W_dec [features, width]"
        )
    if "threshold" in names and facts["threshold"].shape == ():
        raise _needs_config(where, "threshold, of no dimension,", "a BatchTopK", "config.json")
    for name in facts:
        # Early versions of SAELens wrote factors of 1 always.
        is_nothing = is_said_in_training(name) or (name in FACTORS and facts[name].is_ones)
        if name not in names.values() and not is_nothing:
            raise StudyError(
                f"{where} holds {name!r}, which this version does not know and the features may hang on;"
                " put the config of the autoencoder beside it, or save it without"
            )
    return Reading(kind=PLAIN, tensors=check_shapes(where, facts, names), centered=None)


def _of(activation: Activation, where: str, facts: Mapping[str, TensorFacts], what: str) -> Reading:
    roles = [role for role in ROLES[activation] if role not in _BIASES]
    tensors = tensors_of(where, facts, roles, what=what, optional=_BIASES)
    return Reading(kind=Kind(activation=activation), tensors=tensors, centered=None)


def _dictionary(where: str, facts: Mapping[str, TensorFacts]) -> Reading:
    """The plain class of dictionary_learning, whose ``bias`` is taken off before encoding and added after."""
    tensors = tensors_of(where, facts, ROLES["relu"], what="an AutoEncoder of dictionary_learning")
    return Reading(kind=PLAIN, tensors=tensors, centered=True, centered_by=f"bias in {where}")


def _matryoshka(where: str, facts: Mapping[str, TensorFacts]) -> Reading:
    """Of the classes that store their ``k`` only this one has groups."""
    if "group_sizes" not in facts:
        raise _needs_config(where, "k", "a TopK or a BatchTopK", "config.json")
    beside = ("k", "group_sizes", "group_indices")
    tensors = tensors_of(
        where, facts, ROLES["batchtopk"], what="a Matryoshka BatchTopK", beside=beside, is_one_threshold=True
    )
    check_threshold(where, facts, tensors)
    return Reading(
        kind=Kind(activation="batchtopk"),
        tensors=tensors,
        centered=True,
        centered_by=f"group_sizes in {where}",
    )


def _needs_config(where: str, tensor: str, what: str, config: str) -> StudyError:
    return StudyError(f"{where} holds {tensor} as {what} does, which needs its {config}; put that beside it")
