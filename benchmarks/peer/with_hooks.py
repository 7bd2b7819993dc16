"""Plain forward hooks: what one writes without a library. Sources run once, cells run batched over pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.peer.work import Cell, Work, module_path, read_model

SITES = ("mlp_output", "attention_input")


class Hooks:
    """A hook on one module, for one forward."""

    ways = ("full logits", "last logits")
    once = ways

    def __init__(self, folder: Path, device: str) -> None:
        self.model = read_model(folder, device)
        self.kept: dict[tuple[str, int], Tensor] = {}
        """The sources' values [P, T, W] by site and layer."""

    def capture(self, way: str, work: Work, layers: Sequence[int]) -> None:
        self.kept = {}
        handles = [self._keep(site, layer) for site in SITES for layer in layers]
        try:
            self.model(work.sources, **_options(way))
        finally:
            for handle in handles:
                handle.remove()

    def run(self, way: str, work: Work, cells: Sequence[Cell]) -> list[Tensor]:
        found = []
        for site, layer, position in cells:
            handle = self._replace(site, layer, position)
            try:
                found.append(work.scores(self.model(work.bases, **_options(way)).logits[:, -1]))
            finally:
                handle.remove()
        return found

    def _keep(self, site: str, layer: int) -> Any:
        def see(tensor: Tensor) -> None:
            self.kept[site, layer] = tensor

        return self._hook(site, layer, see)

    def _replace(self, site: str, layer: int, position: int) -> Any:
        value = self.kept[site, layer][:, position]

        def change(tensor: Tensor) -> Tensor:
            changed = tensor.clone()
            changed[:, position] = value
            return changed

        return self._hook(site, layer, change)

    def _hook(self, site: str, layer: int, change: Any) -> Any:
        module = self.model.get_submodule(module_path(self.model, site, layer))
        if site == "mlp_output":
            return module.register_forward_hook(lambda _module, _args, output: change(output))

        def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                changed = change(args[0])
                return None if changed is None else ((changed, *args[1:]), kwargs)
            changed = change(kwargs["hidden_states"])
            return None if changed is None else (args, {**kwargs, "hidden_states": changed})

        return module.register_forward_pre_hook(before, with_kwargs=True)


def _options(way: str) -> dict[str, Any]:
    return {"use_cache": False, "logits_to_keep": 1 if way == "last logits" else 0}
