"""Examination of a model: loaded here, how its jobs would run, and what they would lack."""

__all__ = ["examine_model", "is_model"]

from collections.abc import Iterator
from pathlib import Path

from orchestrator.doctor import Finding
from orchestrator.machine import num_cores
from workers.capability import ABILITIES, Capability
from workers.errors import ModelError
from workers.model.references import ALIASES, resolve
from workers.vocabulary import ModelSpec
from workers.zoo.configs import is_zoo


def is_model(name: str) -> bool:
    """Whether a name is a model's: a short name, a built-in one, a folder with a config, a hub id."""
    return name in ALIASES or is_zoo(name) or (Path(name) / "config.json").is_file() or "/" in name


def examine_model(name: str) -> Iterator[Finding]:
    """Findings on the model of that name, which is loaded on this machine; nothing is fetched."""
    import torch

    from workers.model.loading import load
    from workers.replay.probe import probed

    torch.set_num_threads(num_cores())
    spec = ModelSpec(ref=name)
    try:
        model = probed(load(spec, resolve(spec, fetch=False)))
    except ModelError as error:
        yield Finding("problem", str(error))
        return
    yield from _findings(name, model.capability)


def _findings(name: str, found: Capability) -> Iterator[Finding]:
    size = f"{found.weights_bytes / 1e6:,.0f} MB of weights"
    yield Finding("ok", f"{found.attention} attention, {found.dtype} on {found.device}, {size}")
    for one in found.abilities:
        what = ABILITIES[one.name]
        yield Finding(
            "ok" if one.has else "warning", f"{one.name}: {what if one.has else 'no: ' + one.reason}"
        )
    if found.is_surprise:
        yield Finding("problem", found.warning(name).removeprefix("WARNING: "))
