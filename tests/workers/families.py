"""Small random models of every family that `workers.engine.replay.families` names."""

from dataclasses import fields
from importlib.metadata import version
from typing import Any

import pytest
import torch
from packaging.version import Version
from tiny import LAYERS, VOCAB
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from workers.engine.replay.probe import probed
from workers.model.loading import LoadedModel, facts_of

torch.set_num_threads(1)

SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCAB),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "attention_hidden_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size", "intermediate_size_mlp", "dff"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "context_length"), 32),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k"), 2),
    **dict.fromkeys(
        ("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts", "bos_token_id"), 1
    ),
    **{"num_key_value_heads": 2, "rotary_dim": 4, "mlp_only_layers": [], "hidden_size_per_layer_input": 8},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "lru_width": 32, "logits_scaling": 1.0},
}
"""What the families call the sizes of a model, each as small as it can be."""

_ALL_HEADS = {"num_key_value_heads": 4}
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3", "youtu"), _ALL_HEADS),
    "gemma4_text": {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2}
    | {"num_hidden_layers": 4, "per_layer_config": None},
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]], "window_size": 4},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": _ALL_HEADS,
}
"""What a family needs besides, or cannot do without."""


SINCE = {"internlm3": "5.23"}
"""The release of transformers that brought a family, where it is newer than the oldest that is allowed."""

_FULL, _SLIDING = "full_attention", "sliding_attention"
_WINDOW = {"sliding_window": 4}
_FULL_LAST = {**_WINDOW, "layer_types": [_SLIDING, _SLIDING, _FULL]}
_FULL_FIRST = {**_WINDOW, "layer_types": [_FULL, _SLIDING, _FULL]}
_FULL_BELOW = {**_WINDOW, "use_sliding_window": True, "max_window_layers": 1}
SHORT_WINDOWS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("gpt_oss", "mistral", "mixtral", "phi3", "starcoder2"), _WINDOW),
    **dict.fromkeys(("cohere2", "exaone4", "gemma3_text", "olmo3"), _FULL_LAST),
    **dict.fromkeys(("gemma2", "ministral"), _FULL_FIRST),
    **dict.fromkeys(("qwen2", "qwen3"), _FULL_BELOW),
    "gpt_neo": OWN["gpt_neo"],
    "llama4_text": {"attention_chunk_size": 4},
}
"""What makes a family look back four tokens in some blocks."""


def small(model_type: str, *, dtype: torch.dtype = torch.float32, **changes: Any) -> LoadedModel:
    """A random model of a family, loaded: what it does is found by running it."""
    module = small_module(model_type, dtype, **changes)
    return probed(LoadedModel.wrap(module, facts_of(module)))


def small_module(model_type: str, dtype: torch.dtype, **changes: Any) -> Any:
    """Its weights are large whatever its family's own are: what is changed somewhere shows in the logits."""
    if Version(version("transformers")) < Version(SINCE.get(model_type, "0")):
        pytest.skip(f"transformers {version('transformers')} has no {model_type} yet")
    config_class = CONFIG_MAPPING[model_type]
    known = {field.name for field in fields(config_class)}
    sizes = {name: size for name, size in SIZES.items() if name in known}
    torch.manual_seed(0)
    config = config_class(**{**sizes, **OWN.get(model_type, {}), **changes})
    module = AutoModelForCausalLM.from_config(config).eval()
    for parameter in module.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return module.to(dtype)
