"""TransformerLens 4.3: its bridge around the same model, sources in its cache, cells batched over pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from benchmarks.peer.work import Cell, Work, read_model

HOOKS = {"mlp_output": "mlp.hook_out", "attention_input": "attn.hook_in"}


class Lens:
    """`run_with_cache` for the sources, `run_with_hooks` for each cell."""

    ways = ("full logits", "last logits")
    once = ways

    def __init__(self, folder: Path, device: str) -> None:
        self._net = TransformerBridge.boot_transformers(
            str(folder), hf_model=read_model(folder, device), device=device
        )
        self._kept: Any = {}

    def capture(self, way: str, work: Work, layers: Sequence[int]) -> None:
        names = {_name(site, layer) for site in HOOKS for layer in layers}
        _, self._kept = self._net.run_with_cache(
            work.sources, names_filter=lambda name: name in names, **_options(way)
        )

    def run(self, way: str, work: Work, cells: Sequence[Cell]) -> list[Tensor]:
        return [self._cell(way, work, cell) for cell in cells]

    def _cell(self, way: str, work: Work, cell: Cell) -> Tensor:
        site, layer, position = cell
        name = _name(site, layer)
        value = self._kept[name][:, position]

        def change(tensor: Tensor, hook: Any) -> Tensor:
            tensor[:, position] = value
            return tensor

        logits = self._net.run_with_hooks(work.bases, fwd_hooks=[(name, change)], **_options(way))
        return work.scores(logits[:, -1])


def _name(site: str, layer: int) -> str:
    return f"blocks.{layer}.{HOOKS[site]}"


def _options(way: str) -> dict[str, Any]:
    return {"logits_to_keep": 1} if way == "last logits" else {}
