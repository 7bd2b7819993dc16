"""Models, pairs and cells that benchmarks share, and how many operations they need.

Shapes: P pairs, T tokens, L blocks, W width, V vocabulary.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from workers.engine.batch import Batch, BatchResult
from workers.engine.engine import Engine
from workers.engine.replay.probe import probed
from workers.model.loading import LoadedModel, load
from workers.model.references import resolve
from workers.vocabulary import Cell, CellUnit, ModelSpec, Pair, Place

Where = tuple[str, int, int]
"""Site, layer, position."""

SITES = ("mlp_output", "attention_input")
SMOLLM2 = "smollm2-135m"
RANDOM = {
    "gpt2-small": {"model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50_257},
    "gpt2-tiny": {"model_type": "gpt2", "n_layer": 4, "n_head": 4, "n_embd": 64, "vocab_size": 499},
    "llama-tiny": {
        **{"model_type": "llama", "num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 64},
        **{"num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 499},
    },
    **{
        f"gpt2-{num_layers}x256": {
            **{"model_type": "gpt2", "n_layer": num_layers, "n_head": 4, "n_embd": 256, "vocab_size": 8192}
        }
        for num_layers in (3, 6, 12, 24)
    },
}
"""Shapes of models with random weights."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One model, one length of prompts, and a sweep: sites × layers × positions."""

    model: str
    num_tokens: int
    num_pairs: int
    positions: tuple[int, ...]
    every: int = 1
    """Every so manyth layer is swept, from the first on."""

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.model}, {self.num_tokens} tokens"

    def layers(self, num_layers: int) -> range:
        """Those that are swept."""
        return range(0, num_layers, self.every)


def model_folder(name: str, scratch: Path) -> Path:
    """A folder with the model's weights; random ones are made below `scratch`."""
    if name not in RANDOM:
        folder = resolve(ModelSpec(ref=name)).folder
        assert folder is not None
        return folder
    folder = scratch / name
    if not folder.exists():
        _make(name, folder)
    return folder


def _make(name: str, folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    shape = dict(RANDOM[name])
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    # Large weights: what is changed somewhere shows in the logits.
    config: Any = AutoConfig.for_model(**shape, **ends, initializer_range=0.06)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).eval().save_pretrained(folder)
    # All prompts are token ids; some libraries do not start without a tokeniser.
    words: Any = Tokenizer(WordLevel({"<s>": 0}, unk_token="<s>"))
    specials = {f"{kind}_token": "<s>" for kind in ("bos", "eos", "pad")}
    PreTrainedTokenizerFast(tokenizer_object=words, **specials).save_pretrained(folder)


def load_folder(folder: Path, device: str = "cpu") -> LoadedModel:
    """The model of a folder, as a worker has it."""
    spec = ModelSpec(ref=str(folder), device=device)
    return probed(load(spec, resolve(spec)))


def random_pairs(num_pairs: int, num_tokens: int, vocab_size: int, seed: int) -> list[Pair]:
    """Pairs of random token ids that differ at every token: no row equals its base run."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (num_pairs, num_tokens), generator=generator)

    bases = draw(1, vocab_size)
    sources = (bases + draw(1, vocab_size)) % vocab_size
    labels = torch.randint(1, vocab_size, (num_pairs, 2), generator=generator).tolist()
    rows = zip(bases.tolist(), sources.tolist(), labels, strict=True)
    return [
        Pair(number, {"base": tuple(base), "source": tuple(source)}, {}, (label,), (base_label,))
        for number, (base, source, (label, base_label)) in enumerate(rows)
    ]


def sweep(setting: Setting, num_layers: int) -> list[Where]:
    """(site, layer, position) of every cell, in the order in which plans have them."""
    return [
        (site, layer, position)
        for layer, position, site in product(setting.layers(num_layers), setting.positions, SITES)
    ]


def cell_of(site: str, layer: int, position: int, read: int) -> Cell:
    """The base's value there is replaced by the source's."""
    place = Place(site, layer, None, (position,))
    return Cell((CellUnit(place, None, "vanilla", "source", place),), read)


def plain_forward(model: LoadedModel, prompts: Tensor) -> Callable[[], Tensor]:
    """A forward of all prompts [P, T] that gives the last token's logits: the unit of all comparisons.

    The head is given a copy of the last states: torch multiplies frozen weights with a slice of a tensor row
    by row, which takes many times as long.
    """
    head: Any = model.module.get_output_embeddings()  # type: ignore[operator]

    def copied(_module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0].contiguous(),)

    def run() -> Tensor:
        handle = head.register_forward_pre_hook(copied)
        try:
            with torch.inference_mode():
                logits: Tensor = model.module(input_ids=prompts, use_cache=False, logits_to_keep=1).logits
        finally:
            handle.remove()
        return logits

    return run


def bases_of(pairs: Sequence[Pair], device: torch.device | str = "cpu") -> Tensor:
    """[P, T]"""
    return torch.tensor([pair.tokens["base"] for pair in pairs], device=device)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds that it takes, until an accelerator is done with it, and what it gives."""
    wait()
    began = time.perf_counter()
    found = run()
    wait()
    return time.perf_counter() - began, found


def wait() -> None:
    """Wait for all that an accelerator was asked to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def run_sweep(
    engine: Engine,
    setting: Setting,
    wheres: Sequence[Where],
    pairs: Sequence[Pair],
    families: tuple[str, ...],
) -> tuple[float, BatchResult]:
    """Seconds, and what came of these cells on all pairs, captures included.

    Raises:
        RuntimeError: a row failed.
    """
    cells = [(number, cell_of(*where, setting.num_tokens - 1)) for number, where in enumerate(wheres)]
    batch = Batch(cells=cells, pairs=pairs, families=families)
    seconds, outcome = timed(lambda: engine.run(batch, tile_cells=[cell for _, cell in cells]))
    if outcome.num_failed or outcome.num_cells != len(cells):
        errors = [error for error in outcome.columns["error"] if error]
        raise RuntimeError(f"{outcome.num_failed} rows failed: {errors[:1]}")
    return seconds, outcome


@dataclass(frozen=True, slots=True)
class Operations:
    """Multiplications and additions that runs need, counted from the shapes of the weights.

    A token in a block needs two operations for each number of the block's matrices, and to attend to i tokens
    4 i for each dimension of its heads' queries. The head needs two for each of its numbers, at the one token
    that is read. Norms, activations, embeddings and softmax are left out, here and there alike.
    """

    block: int
    """Of one token in one block, without attending."""
    attend: int
    """Of one token that attends to one token, in one block."""
    head: int
    num_layers: int

    @classmethod
    def of(cls, model: LoadedModel) -> "Operations":
        """Those of a decoder."""
        from workers.model.families import family_of

        facts = model.facts
        blocks = model.module.get_submodule(family_of(facts.model_type).blocks)
        matrices = (weight for weight in blocks.get_submodule("0").parameters() if weight.dim() == 2)
        assert facts.width is not None and facts.vocab_size is not None
        return cls(
            block=2 * sum(weight.numel() for weight in matrices),
            attend=4 * facts.width,  # of the models here, heads are together as wide as the hidden state
            head=2 * facts.width * facts.vocab_size,
            num_layers=facts.num_layers,
        )

    def plain(self, num_tokens: int) -> int:
        """A forward of one prompt, read at its last token."""
        return self.changed(0, 0, num_tokens)

    def changed(self, layer: int, position: int, num_tokens: int) -> int:
        """From one block on, from one position on, to the end, read at the last token."""
        tokens = range(position, num_tokens)
        of_block = sum(self.block + self.attend * (at + 1) for at in tokens)
        return (self.num_layers - layer) * of_block + self.head

    def least(self, site: str, layer: int, position: int, num_tokens: int) -> int:
        """What a change there makes different: an MLP's output leaves the work of its own block as it was."""
        return self.changed(layer + 1 if site == "mlp_output" else layer, position, num_tokens)


def operations_done(run: Callable[[], Any]) -> int:
    """What torch itself counts of a run: matrix products, and attention as if no key were masked."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={kernel: _attention}) as counter:
        run()
    return counter.get_total_flops()


def _attention(query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """From shapes [B, heads, tokens, dimensions]."""
    return 4 * query[0] * query[1] * query[2] * key[2] * query[3]
