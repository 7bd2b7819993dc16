"""The paths of a model's modules, without its weights. As a program: a spec on stdin, the paths on stdout."""

__all__ = ["module_paths"]

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workers.vocabulary import ModelSpec
from workers.zoo.build import build
from workers.zoo.configs import config_of, is_zoo, zoo_name


def module_paths(spec: ModelSpec, folder: Path | None) -> list[str]:
    """Every path by which a module of the model is reached, the model itself (the empty path) first.

    Args:
        spec: which model.
        folder: where its config lies; None for a built-in model.

    Raises:
        Exception: whatever the library says of a config that it cannot make a model of.
    """
    module = build(config_of(zoo_name(spec.ref), spec.options)) if is_zoo(spec.ref) else _bare(spec, folder)
    return [path for path, _ in module.named_modules(remove_duplicate=False)]


def _bare(spec: ModelSpec, folder: Path | None) -> nn.Module:
    """A model of the transformers library, without memory for its weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    assert folder is not None
    library: Any = AutoModelForCausalLM
    trust = spec.trust_remote_code
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)
    with torch.device("meta"):
        made: nn.Module = library.from_config(config, trust_remote_code=trust)
    return made


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    found = module_paths(ModelSpec(**asked["spec"]), asked["folder"] and Path(asked["folder"]))
    json.dump(found, sys.stdout)
