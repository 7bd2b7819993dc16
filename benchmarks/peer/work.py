"""What every peer is given and gives back.

Shapes: P pairs, T tokens, W width, V vocabulary.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

import torch
from torch import Tensor

Cell = tuple[str, int, int]
"""Site (``mlp_output`` or ``attention_input``), layer and position, where the source is put for the base."""


@dataclass(frozen=True)
class Work:
    """Pairs of one length; every cell runs on all of them."""

    bases: Tensor
    """[P, T]"""
    sources: Tensor
    """[P, T]"""
    labels: Tensor
    """[P, 2]: the token ids whose logits are wanted."""

    def scores(self, logits: Tensor) -> Tensor:
        """[P, 3] of the last token's logits [P, V]: those of both labels, and the logsumexp."""
        return torch.cat([logits.gather(1, self.labels), logits.logsumexp(1, keepdim=True)], 1).float()


class Peer(Protocol):
    """One library with one model."""

    ways: Sequence[str]
    """The ways in which it can do it, by name."""
    once: Sequence[str]
    """Those of them that run the sources once, before the cells."""

    def capture(self, way: str, work: Work, layers: Sequence[int]) -> None:
        """Run the sources and keep what every cell of these layers reads."""

    def run(self, way: str, work: Work, cells: Sequence[Cell]) -> list[Tensor]:
        """The scores [P, 3] of each cell."""


def serve(make: Any) -> None:
    """Answer lines of JSON until there are no more: ``load``, ``begin``, ``capture``, ``run``.

    Libraries print what they like: their words go to stderr, so that only answers are on stdout.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = _Server(make)
    for line in sys.stdin:
        asked = json.loads(line)
        _say(answers, getattr(server, asked.pop("do"))(**asked))


def _say(answers: TextIO, answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


class _Server:
    def __init__(self, make: Any) -> None:
        self._make = make
        self._peer: Any = None
        self._device = "cpu"
        self._work: Any = None

    def load(self, folder: str, threads: int, device: str = "cpu") -> dict[str, Any]:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._peer = None
        gc.collect()
        self._device = device
        self._peer = self._make(Path(folder), device)
        return {"ways": list(self._peer.ways), "once": list(self._peer.once)}

    def begin(self, bases: Any, sources: Any, labels: Any) -> dict[str, Any]:
        given = (torch.tensor(ids, device=self._device) for ids in (bases, sources, labels))
        self._work = Work(*given)
        return {}

    def capture(self, way: str, layers: Sequence[int]) -> dict[str, Any]:
        began = time.perf_counter()
        self._peer.capture(way, self._work, layers)
        _wait()
        return {"seconds": time.perf_counter() - began}

    def run(self, way: str, cells: Any) -> dict[str, Any]:
        wanted = [(site, layer, position) for site, layer, position in cells]
        began = time.perf_counter()
        scores = self._peer.run(way, self._work, wanted)
        _wait()
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "scores": [one.tolist() for one in scores]}


def _wait() -> None:
    """Wait for all that an accelerator was asked to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def read_model(folder: Path, device: str) -> Any:
    """The model in a folder, as the transformers library makes it, on a device."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device)


def module_path(model: Any, site: str, layer: int) -> str:
    """The path of the module that a site belongs to."""
    names = {"gpt2": ("transformer.h", "attn"), "llama": ("model.layers", "self_attn")}
    blocks, attention = names[model.config.model_type]
    return f"{blocks}.{layer}.{'mlp' if site == 'mlp_output' else attention}"
