"""Configs of dictionary_learning: ``config.json`` beside ``ae.pt``, of its older and newer releases.

The equations are those of each class's `encode` and `decode` as the papers have them: features are not
multiplied by the norms of their decoder columns, as some releases did for display.
"""

__all__ = ["read_dictionary_learning"]

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from workers.autoencoders.configs import Config, Reading, check_k, check_keys, check_sizes, wrong
from workers.autoencoders.kinds import (
    ROLES,
    Activation,
    AutoencoderKind,
    TensorFacts,
    Tensors,
    tensors_of,
    words,
)


@dataclass(frozen=True, slots=True)
class _Class:
    """Class of dictionaries in that library."""

    activation: Activation
    is_centered: bool
    beside: tuple[str, ...] = ()
    """Tensors that it may hold besides the tensors of its activation."""


_CLASSES: Mapping[str, _Class] = MappingProxyType(
    {
        "AutoEncoder": _Class("relu", True),
        "AutoEncoderNew": _Class("relu", False),
        "GatedAutoEncoder": _Class("gated", True),
        "JumpReluAutoEncoder": _Class("jumprelu", False),
        # The threshold is that of another way to use it; a TopK keeps k of each activation.
        "AutoEncoderTopK": _Class("topk", True, ("k", "threshold")),
        "BatchTopKSAE": _Class("batchtopk", True, ("k",)),
        "MatryoshkaBatchTopKSAE": _Class("batchtopk", True, ("k", "group_sizes", "group_indices")),
        "MatroyshkaBatchTopKSAE": _Class("batchtopk", True, ("k", "group_sizes", "group_indices")),
    }
)
_TRAINERS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("StandardTrainer", "PAnnealTrainer", "StandardTrainerAprilUpdate"), "AutoEncoder"),
        **dict.fromkeys(("GatedSAETrainer", "GatedAnnealTrainer"), "GatedAutoEncoder"),
        **dict.fromkeys(("TopKTrainer", "TrainerTopK"), "AutoEncoderTopK"),
        **dict.fromkeys(("BatchTopKTrainer", "TrainerBatchTopK"), "BatchTopKSAE"),
        **dict.fromkeys(("JumpReluTrainer", "TrainerJumpRelu"), "JumpReluAutoEncoder"),
    }
)
"""Class that each trains, for configs from before ``dict_class`` was written."""

_USED = words("activation_dim dict_class dict_size group_sizes k trainer_class")
_UNUSED = words(
    """activation_queue_length adaptive_sparsity_penalty anneal_start auxk_alpha bandwidth decay_start device
    group_fractions group_weights k_anneal_steps l1_penalty layer lm_name lr n_sparsity_updates p_end
    p_start resample_steps seed sparsity_function sparsity_loss_queue_length sparsity_penalty
    sparsity_queue_length sparsity_warmup_steps steps steps_before_annealing submodule_name target_l0
    threshold_beta threshold_start_step top_k_aux wandb_name warmup_steps weights_temperature"""
)
"""Keys that some release writes of the training."""
_OF_BUFFER = words("ctx_len d_submodule device io n_ctxs out_batch_size refresh_batch_size")
_TWO_PLACES = "in_and_out"
"""The activations of what is trained from one place to another."""


def read_dictionary_learning(config: Config) -> Reading:
    """Kind and tensors of an autoencoder, as the config beside its file says.

    Raises:
        StudyError: naming the key that is not known, contradicts the tensors, or needs what is not stored.
    """
    where = config.path
    trainer, prefix = _trainer(config)
    name, its = _class(where, trainer, prefix)
    kind = AutoencoderKind(activation=its.activation)
    tensors = tensors_of(
        str(config.weights),
        config.facts,
        ROLES[its.activation],
        what=f"the class {name} ({where.name})",
        beside=its.beside,
        is_one_threshold=its.activation == "batchtopk",
    )
    check_sizes(where, trainer, {"activation_dim": tensors.width, "dict_size": tensors.num_features})
    _check_groups(config, trainer, prefix, tensors)
    k = _k(config, trainer, prefix, tensors)
    if "k" not in its.beside and k is not None:
        raise wrong(where, f"{prefix}k", f"{k!r}, which the class {name} does not have")
    if its.activation == "topk":
        if k is None:
            raise wrong(where, f"{prefix}k", f"is missing, and the class {name} needs it")
        kind = AutoencoderKind(activation="topk", k=k)
    if its.activation == "batchtopk":
        check_threshold(config.weights, config.facts, tensors)
    said = f"the class {name} of {where}"
    return Reading(kind=kind, tensors=tensors, centered=its.is_centered, centered_by=said)


def check_threshold(where: object, facts: Mapping[str, TensorFacts], tensors: Tensors) -> None:
    """Refuse a BatchTopK's threshold that training never set.

    Raises:
        StudyError: it is below 0, as it starts.
    """
    name = tensors.names.get("threshold")
    if name is not None and not facts[name].least >= 0:
        raise wrong(
            where,
            name,
            f"{facts[name].least:g} is what it is before training: no threshold for inference is stored",
        )


def _trainer(config: Config) -> tuple[Mapping[str, object], str]:
    """The keys of the trainer, and how errors call where they stand."""
    data = config.data
    if "trainer" not in data:
        check_keys(config.path, data, used=_USED | {"buffer"}, unused=_UNUSED)
        _check_buffer(config)
        return data, ""
    trainer = data["trainer"]
    if not isinstance(trainer, Mapping):
        raise wrong(config.path, "trainer", f"{trainer!r} is no object")
    check_keys(config.path, data, used=("trainer", "buffer"), unused=())
    check_keys(config.path, trainer, used=_USED, unused=_UNUSED, prefix="trainer.")
    _check_buffer(config)
    return trainer, "trainer."


def _check_buffer(config: Config) -> None:
    buffer = config.data.get("buffer") or {}
    if not isinstance(buffer, Mapping):
        raise wrong(config.path, "buffer", f"{buffer!r} is no object")
    check_keys(config.path, buffer, used=(), unused=_OF_BUFFER, prefix="buffer.")
    if buffer.get("io") == _TWO_PLACES:
        raise wrong(
            config.path,
            "buffer.io",
            f"{_TWO_PLACES!r}: it writes another place than it reads, and is no autoencoder",
        )


def _class(where: object, trainer: Mapping[str, object], prefix: str) -> tuple[str, _Class]:
    name = trainer.get("dict_class")
    if name is None:
        by = trainer.get("trainer_class")
        if not isinstance(by, str) or by not in _TRAINERS:
            key = "dict_class" if by is None else "trainer_class"
            why = "is missing" if by is None else f"{by!r} is not known; known are {', '.join(_TRAINERS)}"
            raise wrong(where, f"{prefix}{key}", why)
        name = _TRAINERS[by]
    if not isinstance(name, str) or name not in _CLASSES:
        raise wrong(where, f"{prefix}dict_class", f"{name!r} is not known; known are {', '.join(_CLASSES)}")
    return name, _CLASSES[name]


def _k(config: Config, trainer: Mapping[str, Any], prefix: str, tensors: Tensors) -> int | None:
    """The k of the config and of the tensors, which have to agree where both have one."""
    said, stored = trainer.get("k"), config.facts.get("k")
    if said is not None:
        check_k(config.path, f"{prefix}k", said, tensors.num_features)
    if stored is None:
        return said
    if stored.num_numbers != 1 or not stored.least.is_integer():
        raise wrong(config.weights, "k", "is no whole number")
    k = int(stored.least)
    check_k(config.weights, "k", k, tensors.num_features)
    if said not in (None, k):
        raise wrong(config.path, f"{prefix}k", f"{said!r}, and {config.weights.name} has {k}")
    return k


def _check_groups(config: Config, trainer: Mapping[str, object], prefix: str, tensors: Tensors) -> None:
    """The groups of a Matryoshka have to be all of the features, which all are used."""
    said, stored = trainer.get("group_sizes"), config.facts.get("group_sizes")
    if said is not None and (
        not isinstance(said, list)
        or any(not isinstance(size, int) for size in said)
        or sum(said) != tensors.num_features
    ):
        raise wrong(
            config.path, f"{prefix}group_sizes", f"{said} are not the {tensors.num_features} features"
        )
    if stored is not None and stored.total != tensors.num_features:
        raise wrong(config.weights, "group_sizes", f"are not the {tensors.num_features} features")
