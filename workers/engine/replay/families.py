"""Model types of the transformers library and how they run: resumed or hooked. No torch here.

`swapyard models` prints this.

No model is resumed because its family stands here: what a model does is found by trying, when it is loaded.
The tests load a small random model of every family that is named, and find what is written.
"""

__all__ = ["HOOKED", "LEVEL", "RESUMED", "SEEN_WITH", "last_seen"]

from collections.abc import Mapping
from types import MappingProxyType

SEEN_WITH = "transformers 5.20.0 to 5.24.0"
"""Versions that the families were seen to be as written here; the tests of the families hold it."""

RESUMED: tuple[str, ...] = (
    *("afmoe", "apertus", "arcee", "axk1", "biogpt", "bitnet", "codegen", "cohere", "cohere2", "cohere2_moe"),
    *("ctrl", "cwm", "deepseek_v2", "deepseek_v3", "diffllama", "doge", "dots1", "ernie4_5", "ernie4_5_moe"),
    *("exaone4", "exaone_moe", "falcon", "flex_olmo", "gemma", "gemma2", "gemma3_text", "glm", "glm4"),
    *("glm4_moe", "glm4_moe_lite", "gpt2", "gpt_neo", "gpt_neox", "gpt_neox_japanese", "gpt_oss", "gptj"),
    *("granite", "granitemoe", "granitemoeshared", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "hy_v3"),
    *("hyperclovax", "internlm3", "jais2", "jetmoe", "llama", "llama4_text", "mellum", "minicpm3"),
    *("minimax_m2", "ministral", "ministral3", "mistral", "mixtral", "mpt", "nanochat", "nemotron", "olmo"),
    *("olmo2", "olmo3", "olmoe", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3"),
    *("qwen3_moe", "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2", "vaultgemma", "youtu"),
)
"""Types of models that resume, rows that begin at different blocks together in one forward."""

LEVEL: tuple[str, ...] = ("bloom", "gpt_bigcode")
"""Types that resume, all rows of a forward from one block: their code counts the rows of a forward."""

HOOKED: Mapping[str, str] = MappingProxyType(
    {
        "gemma4_text": "layers share keys and values",
        "jamba": "recurrent",
        "lfm2": "convolutions over tokens",
        "longcat_flash": "two attentions in a block",
        "minimax": "a cache of its own",
        "olmo_hybrid": "recurrent",
        "openai-gpt": "takes no cache",
        "qwen3_next": "recurrent",
        "recurrent_gemma": "recurrent",
    }
)
"""Types that run hooked, and why."""


def last_seen(model_type: str) -> str:
    """Version that models of a type were last seen to resume with; empty for a type that is not known to."""
    return SEEN_WITH if model_type in (*RESUMED, *LEVEL) else ""
