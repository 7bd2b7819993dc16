"""Tiny random models, large weights: what is changed somewhere shows in the logits."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from workers.engine.replay.probe import probed
from workers.model.facts import ModelFacts
from workers.model.loading import LoadedModel
from workers.vocabulary import Cell, CellUnit, Pair, Place, Position

torch.set_num_threads(1)  # threads that wait for each other make tiny models slower, not faster

VOCAB = 61
LAYERS = 3
_OWN_HEAD_WIDTH = ("qwen3", "gemma", "gemma2", "gemma3_text")


def tiny_module(model_type: str, **changes: Any) -> Any:
    """A random model of a family; head widths differ from width / heads where the family allows it."""
    config: dict[str, Any] = {"vocab_size": VOCAB, "initializer_range": 0.3}
    config |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if model_type == "gpt2":
        config |= {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 32}
    else:
        config |= {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
        config |= {"intermediate_size": 48, "max_position_embeddings": 32}
    if model_type not in ("gpt2", "gpt_neox"):
        config |= {"num_key_value_heads": 2}
    if model_type in _OWN_HEAD_WIDTH:
        config |= {"head_dim": 12}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config | changes)).eval()


def facts_of(module: Any, model_type: str, folder: Path = Path()) -> ModelFacts:
    config = module.config
    return ModelFacts(
        ref=f"tiny {model_type}",
        revision="0",
        dtype="float32",
        folder=folder,
        model_type=model_type,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=getattr(config, "num_key_value_heads", config.num_attention_heads),
        width=config.hidden_size,
        vocab_size=config.vocab_size,
        num_parameters=0,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        num_neurons=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        input_width=config.hidden_size,
        max_positions=config.max_position_embeddings,
        has_position_table=model_type == "gpt2",
    )


@cache
def tiny(model_type: str) -> LoadedModel:
    """A tiny model, made once for all tests: leave it as it is."""
    module = tiny_module(model_type)
    return probed(LoadedModel.wrap(module, facts_of(module, model_type)))


def unit(
    site: str,
    layer: int | None,
    position: Position,
    *,
    heads: tuple[int, ...] | None = None,
    dims: tuple[tuple[int, int], ...] | None = None,
    operation: str = "vanilla",
    run: str = "source",
    origin: Place | None = None,
) -> CellUnit:
    """A unit that takes its value at its own place, unless `origin` says otherwise."""
    place = Place(site, layer, heads, position)
    return CellUnit(place, dims, operation, run, None if run == "zero" else origin or place)


def swap(site: str, layer: int | None, position: Position, *, read: int | str = 4, **more: Any) -> Cell:
    """A cell of one unit."""
    return Cell((unit(site, layer, position, **more),), read)


def pairs(
    count: int, *, lengths: tuple[int, ...] = (5, 5), seed: int = 0, num_prompts: int | None = None
) -> list[Pair]:
    """Random pairs: a base, and a source for each further length."""
    generator = torch.Generator().manual_seed(seed)

    def prompt(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCAB, (length,), generator=generator).tolist())

    size = num_prompts or count + len(lengths)
    pool = {length: [prompt(length) for _ in range(size)] for length in sorted(set(lengths))}
    runs = ("base", "source", *(f"source_{n}" for n in range(2, len(lengths))))[: len(lengths)]
    made = []
    for number in range(count):
        tokens = {
            run: pool[length][(number + place * (1 + number // size)) % size]
            for place, (run, length) in enumerate(zip(runs, lengths, strict=True))
        }
        made.append(Pair(number, tokens, {}, (3 + number % 40,), (7 + number % 40, 5)))
    return made
