"""pyvene 0.1.8."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyvene
import torch
from torch import Tensor

from benchmarks.peer.with_hooks import Hooks
from benchmarks.peer.work import Cell, Work


class Pyvene:
    """One intervenable model for each site and layer, made before anything is timed."""

    ways = ("tutorial loop", "batched", "batched, last logits", "batched, last logits, cached sources")
    once = ways[3:]

    def __init__(self, folder: Path, device: str) -> None:
        self._hooks = Hooks(folder, device)
        self._made: dict[tuple[str, int], Any] = {}

    def capture(self, way: str, work: Work, layers: Sequence[int]) -> None:
        """With plain hooks: the library's collector gives one position at a time."""
        self._hooks.capture("last logits", work, layers)

    def run(self, way: str, work: Work, cells: Sequence[Cell]) -> list[Tensor]:
        return [self._cell(way, work, cell) for cell in cells]

    def _cell(self, way: str, work: Work, cell: Cell) -> Tensor:
        site, layer, position = cell
        net = self._net(site, layer)
        where = {"sources->base": position}
        more = {"use_cache": False, "logits_to_keep": 1} if "last logits" in way else {}
        if way == "tutorial loop":
            logits = [
                net({"input_ids": base}, [{"input_ids": source}], where)[1].logits[:, -1]
                for base, source in zip(work.bases.split(1), work.sources.split(1), strict=True)
            ]
            return work.scores(torch.cat(logits))
        inputs = {"input_ids": work.bases, **more}
        if "cached sources" in way:
            (key,) = net.interventions
            value = {key: self._hooks.kept[site, layer][:, position, None]}
            answer = net(inputs, unit_locations=where, source_representations=value)
        else:
            answer = net(inputs, [{"input_ids": work.sources, **more}], where)
        return work.scores(answer[1].logits[:, -1])

    def _net(self, site: str, layer: int) -> Any:
        if (site, layer) not in self._made:
            given = {"layer": layer, "component": site, "unit": "pos"}
            given |= {"intervention_type": pyvene.VanillaIntervention}
            self._made[site, layer] = pyvene.IntervenableModel(
                pyvene.IntervenableConfig([given]), self._hooks.model
            )
        return self._made[site, layer]
