"""Units as files: ``units.json`` says what they are, ``units.safetensors`` holds their numbers.

A subspace that several units share is written once, and shared again when it is read.
"""

__all__ = ["read_units", "save_units"]

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from workers.errors import StoreError, StudyError
from workers.features import PCA, SparseAutoencoder
from workers.masks import BoundlessRotation, Mask
from workers.positions import PerExample, per_example
from workers.subspaces import LowRankRotation, Part, Rotation, Subspace
from workers.units import IntervenedRun, Noise, Origin, Unit

_FORMAT = 1
_KINDS: Mapping[str, type[Subspace]] = {
    "rotation": Rotation,
    "low_rank_rotation": LowRankRotation,
    "boundless_rotation": BoundlessRotation,
    "mask": Mask,
    "pca": PCA,
    "sparse_autoencoder": SparseAutoencoder,
}


def save_units(units: Sequence[Unit], folder: Path) -> None:
    """Write units into a folder, which is made where there is none.

    Raises:
        StudyError: a unit holds what no file can: a function, or runs to average.
    """
    writer = _Writer()
    written = {"format": _FORMAT, "units": [writer.unit(unit) for unit in units]}
    written["subspaces"] = [writer.subspace(space) for space in writer.spaces]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(writer.tensors, folder / "units.safetensors")
    (folder / "units.json").write_text(json.dumps(written, indent=1, ensure_ascii=False), "utf-8")


def read_units(folder: Path) -> tuple[Unit, ...]:
    """The units that `save_units` wrote.

    Raises:
        StoreError: the folder does not hold units, or those of another version.
    """
    try:
        written = json.loads((folder / "units.json").read_text("utf-8"))
        tensors = load_file(folder / "units.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise StoreError(f"{folder} holds no units that can be read ({error}); save them again") from error
    if written.get("format") != _FORMAT:
        found = written.get("format")
        raise StoreError(f"{folder} holds units of format {found}; this version reads {_FORMAT}")
    reader = _Reader(tensors, [])
    for number, space in enumerate(written["subspaces"]):
        reader.spaces.append(reader.subspace(space, f"subspace.{number}."))
    return tuple(reader.unit(unit) for unit in written["units"])


class _Writer:
    """Units to plain data; subspaces and numbers are referred to by their number."""

    def __init__(self) -> None:
        self.spaces: list[Subspace] = []
        self.tensors: dict[str, Tensor] = {}

    def unit(self, unit: Unit) -> dict[str, Any]:
        if unit.coordinates is not None or callable(unit.operation):
            raise StudyError(f"the unit at {unit.site!r} has a function of its own, which no file can hold")
        return {
            "site": unit.site,
            "layer": unit.layer,
            "head": unit.head,
            "position": _position(unit.position),
            "kind": unit.kind,
            "subspace": self._form(unit.subspace),
            "operation": unit.operation,
            "value": self._value(unit),
            "origin": None if unit.origin is None else self._origin(unit.origin),
        }

    def subspace(self, space: Subspace) -> dict[str, Any]:
        number = self.spaces.index(space)
        for name, tensor in space.state_dict().items():
            self.tensors[f"subspace.{number}.{name}"] = tensor.contiguous()
        return _kind_of(space)

    def _form(self, form: Any) -> Any:
        if isinstance(form, PerExample):
            return {"per_example": [self._form(one) for one in form]}
        if isinstance(form, Part):
            return {"number": self._number(form.of), "ranges": [list(ends) for ends in form.ranges]}
        if isinstance(form, Subspace):
            return {"number": self._number(form)}
        return form

    def _number(self, space: Subspace) -> int:
        if not any(space is known for known in self.spaces):
            self.spaces.append(space)
        return next(number for number, known in enumerate(self.spaces) if known is space)

    def _value(self, unit: Unit) -> Any:
        value = unit.value
        if isinstance(value, str):
            return value
        if isinstance(value, Tensor):
            name = f"value.{len(self.tensors)}"
            self.tensors[name] = value.detach().contiguous().clone()
            return {"tensor": name}
        if isinstance(value, Noise):
            return {"noise": [value.scale, value.seed, value.first_example]}
        if isinstance(value, IntervenedRun):
            return {"run": [self.unit(inner) for inner in value.units], "base": value.base}
        raise StudyError(f"the unit at {unit.site!r} averages runs; give the mean itself, as a tensor")

    def _origin(self, origin: Origin) -> dict[str, Any]:
        if origin.coordinates is not None:
            raise StudyError("an origin has a function of its own, which no file can hold")
        position = None if origin.position is None else _position(origin.position)
        return {"site": origin.site, "layer": origin.layer, "head": origin.head, "position": position}


class _Reader:
    """Plain data to units."""

    def __init__(self, tensors: Mapping[str, Tensor], spaces: list[Subspace]) -> None:
        self._tensors = tensors
        self.spaces = spaces

    def unit(self, data: Mapping[str, Any]) -> Unit:
        origin = data["origin"]
        return Unit(
            data["site"],
            layer=data["layer"],
            head=data["head"],
            position=_read_position(data["position"]),
            kind=data["kind"],
            subspace=self._form(data["subspace"]),
            operation=data["operation"],
            value=self._value(data["value"]),
            origin=None if origin is None else self._origin(origin),
        )

    def subspace(self, data: Mapping[str, Any], prefix: str) -> Subspace:
        space = _blank(data)
        found = {name: t for name, t in self._tensors.items() if name.startswith(prefix)}
        space.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in found.items()})
        return space

    def _form(self, form: Any) -> Any:
        if not isinstance(form, dict):
            return form
        if "per_example" in form:
            return per_example(self._form(one) for one in form["per_example"])
        space = self.spaces[form["number"]]
        return Part(space, tuple((low, high) for low, high in form["ranges"])) if "ranges" in form else space

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return value
        if "tensor" in value:
            return self._tensors[value["tensor"]]
        if "noise" in value:
            return Noise(*value["noise"])
        return IntervenedRun([self.unit(inner) for inner in value["run"]], value["base"])

    def _origin(self, data: Mapping[str, Any]) -> Origin:
        position = None if data["position"] is None else _read_position(data["position"])
        return Origin(data["site"], layer=data["layer"], head=data["head"], position=position)


def _kind_of(space: Subspace) -> dict[str, Any]:
    """Its kind and what makes an equal one; a subspace inside it likewise."""
    kind = next(name for name, known in _KINDS.items() if isinstance(space, known))
    config = space.config()
    return {"kind": kind, **{k: _kind_of(v) if isinstance(v, Subspace) else v for k, v in config.items()}}


def _blank(data: Mapping[str, Any]) -> Subspace:
    """A subspace of this kind and shape, to be filled."""
    config = {key: value for key, value in data.items() if key != "kind"}
    if isinstance(inner := config.get("of"), dict):
        config["of"] = _blank(inner)
    kind: Any = _KINDS[data["kind"]]
    make: Callable[..., Subspace] = getattr(kind, "blank", None) or (lambda given: kind(**given))
    return make(config)


def _position(form: Any) -> Any:
    if isinstance(form, PerExample):
        return {"per_example": list(form)}
    return form


def _read_position(form: Any) -> Any:
    return per_example(form["per_example"]) if isinstance(form, dict) else form
