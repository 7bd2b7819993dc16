"""Loading of folders by the transformers library: keywords of `from_pretrained`, and what it says was
amiss."""

__all__ = ["PLACES", "not_put_together"]

import logging
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from workers.libraries import LibraryPlace
from workers.libraries.transformers import quiet
from workers.libraries.transformers_places import tiny

_APART = re.compile(r"^(\S.*?)\s*\|\s*CONVERSION\b", re.MULTILINE)
"""A row of the library's report of a load."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def not_put_together(report: str) -> list[str]:
    """The model's tensors that the library could not put together from the file's, as its report says."""
    return _APART.findall(_COLOUR.sub("", report))


_AMISS = ("missing_keys", "unexpected_keys", "mismatched_keys")


def _loaded(change: Callable[[dict[str, Any]], None] = lambda tensors: None, **options: object) -> Any:
    """Model of a folder, its tensors changed before."""
    from transformers import AutoModelForCausalLM

    library: Any = AutoModelForCausalLM
    with tempfile.TemporaryDirectory() as made, quiet():
        tiny().save_pretrained(made)
        file = Path(made) / "model.safetensors"
        tensors = dict(load_file(file))
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})
        return library.from_pretrained(made, local_files_only=True, use_safetensors=True, **options)


def _probe_keywords() -> str | None:
    module = _loaded(dtype=torch.bfloat16, attn_implementation="eager")
    if next(module.parameters()).dtype != torch.bfloat16:
        raise LookupError("dtype is ignored: models are loaded in another one than the study says")
    config = getattr(module.config, "_attn_implementation", None)
    return None if config == "eager" else "the attention kernel of a study is not the one that runs"


def _probe_amiss() -> str | None:
    def change(tensors: dict[str, object]) -> None:
        name = next(name for name in tensors if name.endswith("mlp.up_proj.weight"))
        tensors["other"] = tensors.pop(name)
        norm = next(name for name in tensors if name.endswith("input_layernorm.weight"))
        tensors[norm] = torch.ones(3)

    _, info = _loaded(change, output_loading_info=True, ignore_mismatched_sizes=True)
    silent = [name for name in _AMISS if not _listed(info, name)]
    if silent:
        raise LookupError(f"weights that are amiss are not told: {', '.join(silent)}")
    return None


def _probe_report() -> str | None:
    from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "vocab_size": 7,
    }
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 2}
    library: Any = AutoModelForCausalLM
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    with tempfile.TemporaryDirectory() as made:
        with quiet():
            MixtralForCausalLM(MixtralConfig(**sizes, **heads)).save_pretrained(made)
        file = Path(made) / "model.safetensors"
        tensors = dict(load_file(file))
        del tensors[next(name for name in tensors if name.endswith("experts.0.w1.weight"))]
        save_file(tensors, file, metadata={"format": "pt"})
        logger.addHandler(handler)
        try:
            library.from_pretrained(made, local_files_only=True)
        except RuntimeError:
            pass
        finally:
            logger.removeHandler(handler)
    found = not_put_together("\n".join(said))
    return None if found else "experts that cannot be put together are told from the file's headers alone"


def _listed(info: object, name: str) -> bool:
    found = info.get(name) if isinstance(info, Mapping) else getattr(info, name, None)
    return bool(found)


def _probe_bare() -> str | None:
    from transformers import AutoModelForCausalLM

    library: Any = AutoModelForCausalLM
    with torch.device("meta"):
        module = library.from_config(tiny().config)
    has_numbers = any(parameter.device.type != "meta" for parameter in module.parameters())
    return "looking up the paths of modules takes the memory of the model" if has_numbers else None


_SEEN = "5.20.0 to 5.24.0"

PLACES = (
    LibraryPlace(
        library="transformers",
        name="from_pretrained(dtype=…, attn_implementation=…, use_safetensors=…, local_files_only=…)",
        used_for="loading a model as its spec says, from this machine alone",
        seen_with=_SEEN,
        without="the model is refused with the library's own words",
        marks=(),
        probe=_probe_keywords,
    ),
    LibraryPlace(
        library="transformers",
        name="output_loading_info: missing, unexpected and mismatched keys",
        used_for="refusing a checkpoint that has not the weights of its config's model",
        seen_with=_SEEN,
        without="no checkpoint is loaded: one with random weights could not be told from others",
        marks=(),
        probe=_probe_amiss,
    ),
    LibraryPlace(
        library="transformers",
        name="the report of a load: rows of CONVERSION",
        used_for="naming tensors that could not be put together, such as those of all experts",
        seen_with=_SEEN,
        without="the file's headers alone say which tensors stand out",
        marks=("CONVERSION",),
        probe=_probe_report,
    ),
    LibraryPlace(
        library="transformers",
        name="from_config on the meta device",
        used_for="the paths of a model's modules, while a study is planned",
        seen_with=_SEEN,
        without="planning takes the memory of the model, or says why paths cannot be looked up",
        marks=(),
        probe=_probe_bare,
    ),
)
