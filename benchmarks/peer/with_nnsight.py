"""nnsight 0.8.1: sources traced once and saved, then a trace for each cell, batched over pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnsight import NNsight, save
from torch import Tensor

from benchmarks.peer.work import Cell, Work, module_path, read_model


class Nnsight:
    """A trace that reads and writes the modules' tensors."""

    ways = ("full logits", "last logits")
    once = ways

    def __init__(self, folder: Path, device: str) -> None:
        self._model = read_model(folder, device)
        self._net = NNsight(self._model)
        self._kept: dict[tuple[str, int], Tensor] = {}

    def capture(self, way: str, work: Work, layers: Sequence[int]) -> None:
        kept: dict[tuple[str, int], Any] = {}
        modules = {(site, layer): self._module(site, layer) for layer in layers for site in SITES}
        takes_keywords = self._model.config.model_type != "gpt2"
        with self._net.trace(work.sources, **_options(way)):
            for (site, layer), module in modules.items():
                if site == "mlp_output":
                    kept[site, layer] = save(module.output)
                elif takes_keywords:
                    kept[site, layer] = save(module.inputs[1]["hidden_states"])
                else:
                    kept[site, layer] = save(module.input)
        self._kept = kept

    def run(self, way: str, work: Work, cells: Sequence[Cell]) -> list[Tensor]:
        return [self._cell(way, work, cell) for cell in cells]

    def _cell(self, way: str, work: Work, cell: Cell) -> Tensor:
        site, layer, position = cell
        module, value = self._module(site, layer), self._kept[site, layer][:, position]
        net = self._net
        if site == "mlp_output":
            with net.trace(work.bases, **_options(way)):
                module.output[:, position] = value
                logits = save(net.output.logits[:, -1])
        else:
            with net.trace(work.bases, **_options(way)):
                module.input[:, position] = value
                logits = save(net.output.logits[:, -1])
        return work.scores(logits)

    def _module(self, site: str, layer: int) -> Any:
        found: Any = self._net
        for name in module_path(self._model, site, layer).split("."):
            found = found[int(name)] if name.isdecimal() else getattr(found, name)
        return found


SITES = ("attention_input", "mlp_output")
"""In the order in which a block runs them."""


def _options(way: str) -> dict[str, Any]:
    return {"use_cache": False, "logits_to_keep": 1 if way == "last logits" else 0}
