"""Configs of SAELens: ``cfg.json`` beside ``sae_weights.safetensors``, of versions 1 to 6.

The equations are those of its `encode` and `decode` for inference. Configs before version 6 have one flat
list of keys, name the activation (``activation_fn_str``, or ``activation_fn``) and give its ``k`` in
``activation_fn_kwargs``; later ones name the ``architecture``, have ``k`` beside it, and keep what no feature
hangs on in ``metadata``.
"""

__all__ = ["read_sae_lens"]

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from workers.autoencoders.configs import Config, Reading, check_k, check_keys, check_sizes, flag, wrong
from workers.autoencoders.kinds import (
    ROLES,
    Activation,
    AutoencoderKind,
    Normalization,
    Tensors,
    tensors_of,
    words,
)

_ARCHITECTURES: Mapping[str, Activation] = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "batchtopk",
}
_NORMALIZATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")
_ACTIVATION_KEYS = ("activation_fn_str", "activation_fn")
_TRANSCODERS = ("d_out", "hook_name_out", "hook_point_out", "is_transcoder")
"""Keys of what writes another place than it reads."""
_SCALER = "activation_scaler.json"
"""File in which a checkpoint of version 6 keeps the factor of expected-average normalisation."""

_USED = words(
    """activation_fn activation_fn_kwargs activation_fn_str apply_b_dec_to_input architecture d_in d_sae
    finetuning_scaling_factor k metadata normalize_activations rescale_acts_by_decoder_norm
    reshape_activations"""
) | {*_TRANSCODERS}
_UNUSED = words(
    """act_store_device activations_mixing_fraction adam_beta1 adam_beta2 autocast autocast_lm
    aux_loss_coefficient b_dec_init_method cached_activations_path checkpoint_path compile_llm compile_sae
    context_size dataset_path dataset_trust_remote_code dead_feature_estimation_method
    dead_feature_threshold dead_feature_window decoder_heuristic_init decoder_heuristic_init_norm
    decoder_init_norm decoder_orthogonal_init device disable_concat_sequences dtype
    eval_batch_size_prompts eval_every_n_wandb_logs exclude_special_tokens expansion_factor
    feature_reinit_scale feature_sampling_method feature_sampling_window finetuning_method
    finetuning_tokens from_pretrained_path hook_eval hook_head_index hook_head_index_out hook_layer
    hook_layer_out hook_name hook_point hook_point_eval hook_point_head_index hook_point_layer
    init_encoder_as_decoder_transpose is_dataset_tokenized jumprelu_bandwidth jumprelu_init_threshold
    jumprelu_sparsity_loss_mode jumprelu_ste_to_input jumprelu_tanh_scale l0_coefficient l0_warm_up_steps
    l1_coefficient l1_warm_up_steps layer llm_compilation_mode llm_device log_activations_store_to_wandb
    log_optimizer_state_to_wandb log_to_wandb log_weights_to_wandb logger lp_norm lr lr_decay_steps lr_end
    lr_scheduler_name lr_warm_up_steps matryoshka_widths model_batch_size model_class_name
    model_from_pretrained_kwargs model_kwargs model_name mse_loss_normalization
    n_batches_for_norm_estimate n_batches_in_buffer n_checkpoints n_eval_batches n_restart_cycles
    n_train_batch_per_buffer neuronpedia_id noise_scale normalize_sae_decoder output_path
    pre_act_loss_coefficient prefetch_llm_batches prepend_bos resample_batches resume
    resume_from_checkpoint run_name sae_compilation_mode sae_lens_training_version sae_lens_version
    save_final_checkpoint scale_sparsity_penalty_by_decoder_norm seed seqpos_slice
    sequence_separator_token store_batch_size store_batch_size_prompts streaming target_l0
    tokens_per_buffer topk_threshold_lr total_training_samples total_training_steps total_training_tokens
    train_batch_size train_batch_size_samples train_batch_size_tokens training_tokens
    use_cached_activations use_chat_formatting use_error_term use_ghost_grads use_matryoshka_aux_loss
    use_sparse_activations verbose wandb_entity wandb_id wandb_log_frequency wandb_project"""
)
"""Keys that some version writes and no feature hangs on: the data, the training, and how it was run."""


def read_sae_lens(config: Config) -> Reading:
    """Kind and tensors of an autoencoder, as the config beside its file says.

    Raises:
        StudyError: naming the key that is not known, contradicts the tensors, or needs what is not stored.
    """
    where, data = config.path, config.data
    _check_architecture(where, data)  # first: it says more than the first of its keys
    check_keys(where, data, used=_USED, unused=_UNUSED)
    if not isinstance(data.get("metadata") or {}, Mapping):
        raise wrong(where, "metadata", f"{data['metadata']!r} is no object")
    _check_no_transcoder(where, data)
    _check_metadata(where, data)
    _check_reshape(where, data)
    activation, key, k = _activation(where, data)
    is_rescaled = flag(where, data, "rescale_acts_by_decoder_norm", missing=False)
    if is_rescaled and activation not in ("topk", "batchtopk"):
        name = data.get("architecture", "standard")
        raise wrong(
            where, "rescale_acts_by_decoder_norm", f"true, which the architecture {name!r} does not know"
        )
    tensors = _tensors(config, activation)
    check_sizes(where, data, {"d_in": tensors.width, "d_sae": tensors.num_features})
    if k is not None:
        check_k(where, key, k, tensors.num_features, is_whole=activation == "topk")
    normalization, scale = _normalization(config)
    kind = AutoencoderKind(
        activation=activation,
        k=int(k) if k is not None and activation == "topk" else None,
        normalization=normalization,
        input_scale=scale,
        is_rescaled=is_rescaled,
        is_finetuned=_is_finetuned(config, tensors),
    )
    centered = flag(where, data, "apply_b_dec_to_input", missing=True)
    said = f"apply_b_dec_to_input of {where}"
    return Reading(kind=kind, tensors=tensors, centered=centered, centered_by=said)


def _check_architecture(where: Path, data: Mapping[str, object]) -> None:
    name = data.get("architecture", "standard")
    if not isinstance(name, str) or name not in _ARCHITECTURES:
        raise wrong(where, "architecture", f"{name!r} is not known; known are {', '.join(_ARCHITECTURES)}")


def _check_no_transcoder(where: Path, data: Mapping[str, Any]) -> None:
    metadata = data.get("metadata") or {}
    for key in _TRANSCODERS:
        for name, value in ((key, data.get(key)), (f"metadata.{key}", metadata.get(key))):
            if value not in (None, False, ""):
                raise wrong(
                    where,
                    name,
                    f"{value!r}: a transcoder writes another place than it reads, and is no autoencoder",
                )


def _check_metadata(where: Path, data: Mapping[str, Any]) -> None:
    """Metadata is free, but may not say otherwise what the config says."""
    for key, value in (data.get("metadata") or {}).items():
        if key in _USED - {*_TRANSCODERS} and value != data.get(key):
            raise wrong(
                where, f"metadata.{key}", f"{value!r}, and {key} is {data.get(key)!r}; keep one of them"
            )


def _check_reshape(where: Path, data: Mapping[str, object]) -> None:
    """``hook_z`` lays the heads side by side, as a place of all heads has them anyway."""
    found = data.get("reshape_activations", "none")
    if found not in ("none", "hook_z"):
        raise wrong(where, "reshape_activations", f"{found!r} is not known; known are 'none' and 'hook_z'")


def _activation(where: Path, data: Mapping[str, Any]) -> tuple[Activation, str, Any]:
    """Activation of the features, and the ``k`` that it was trained with, after its key."""
    name = data.get("architecture", "standard")
    function, arguments = _function(where, data)
    given = {
        key: k
        for key, k in (("k", data.get("k")), ("activation_fn_kwargs.k", arguments.get("k")))
        if k is not None
    }
    if len(given) > 1 and data["k"] != arguments["k"]:
        raise wrong(where, "k", f"{data['k']!r}, and activation_fn_kwargs has {arguments['k']!r}")
    activation = _ARCHITECTURES[name]
    if function == "topk" and activation == "relu":
        activation = "topk"  # as versions before 6 wrote it
    elif function is not None and function != ("topk" if activation == "topk" else "relu"):
        raise wrong(where, _ACTIVATION_KEYS[0], f"{function!r}, which contradicts the architecture {name!r}")
    if activation not in ("topk", "batchtopk"):
        for key, k in given.items():
            raise wrong(where, key, f"{k!r}, which the architecture {name!r} does not have")
    if activation == "topk" and not given:
        raise wrong(where, "k", "is missing, and a TopK needs it")
    return (activation, *next(iter(given.items()), ("k", None)))


def _function(where: Path, data: Mapping[str, Any]) -> tuple[str | None, Mapping[str, object]]:
    """The activation function that configs before version 6 name, and its arguments."""
    named = {key: data[key] for key in _ACTIVATION_KEYS if data.get(key) is not None}
    for key, value in named.items():
        if value not in ("relu", "topk"):
            raise wrong(where, key, f"{value!r} is not known; known are 'relu' and 'topk'")
    if len(set(named.values())) > 1:
        raise wrong(where, _ACTIVATION_KEYS[0], "and activation_fn name two functions; keep one of them")
    arguments = data.get("activation_fn_kwargs") or {}
    if not isinstance(arguments, Mapping):
        raise wrong(where, "activation_fn_kwargs", f"{arguments!r} is no object")
    for key, value in arguments.items():
        if key != "k" and not (key == "signed" and value is False):
            raise wrong(where, f"activation_fn_kwargs.{key}", f"{value!r} is not known; known is k")
    return next(iter(named.values()), None), arguments


def _tensors(config: Config, activation: Activation) -> Tensors:
    name = config.data.get("architecture", "standard")
    tensors = tensors_of(
        str(config.weights),
        config.facts,
        ROLES[activation],
        what=f"the architecture {name!r} ({config.path.name})",
        optional=("factor",),
        is_one_threshold=activation == "batchtopk",
    )
    if activation == "batchtopk":
        threshold = tensors.names.get("threshold")
        if threshold is not None and not config.facts[threshold].least > 0:
            least = config.facts[threshold].least
            raise wrong(
                config.weights,
                threshold,
                f"{least:g} is what it is before training: no threshold for inference is stored",
            )
    return tensors


def _normalization(config: Config) -> tuple[Normalization, float | None]:
    """Normalisation of activations, and the factor where it is the same for all of them."""
    key = "normalize_activations"
    found = config.data.get(key)
    if found is None or isinstance(found, bool):  # as versions before 3 wrote it
        found = "expected_average_only_in" if found else "none"
    if found not in _NORMALIZATIONS:
        raise wrong(config.path, key, f"{found!r} is not known; known are {', '.join(_NORMALIZATIONS)}")
    if found == "expected_average_only_in":
        return "none", _scale(config, key)
    return cast(Normalization, found), None


def _scale(config: Config, key: str) -> float:
    """The stored factor of expected-average normalisation."""
    path = config.path.parent / _SCALER
    try:
        factor = json.loads(path.read_text("utf-8"))["scaling_factor"]
    except OSError:
        factor = None
    except (ValueError, KeyError, TypeError):
        raise wrong(path, "scaling_factor", "cannot be read; it has to be a number") from None
    if factor is None:
        raise wrong(
            config.path,
            key,
            "'expected_average_only_in' needs the factor that activations were multiplied by in training,"
            f" which is not stored (no {_SCALER} has it); fold it into the weights and write 'none'",
        )
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < float("inf"):
        raise wrong(path, "scaling_factor", f"{factor!r} is no number above 0")
    return float(factor)


def _is_finetuned(config: Config, tensors: Tensors) -> bool:
    """Whether features have factors of their own; factors of 1, which old versions wrote always, are none."""
    key = "finetuning_scaling_factor"
    said = flag(config.path, config.data, key, missing=False)
    name = tensors.names.get("factor")
    if name is None:
        if said:
            raise wrong(config.path, key, f"true, and {config.weights.name} does not hold the factors")
        return False
    about = config.facts[name]
    if about.is_ones:
        return False
    if not said:
        raise wrong(config.path, key, f"false or missing, and {config.weights.name} holds factors, {name!r}")
    return True
