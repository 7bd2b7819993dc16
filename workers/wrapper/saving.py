"""Units as files: ``units.json`` says what they are, ``units.safetensors`` holds their numbers.

Numbers of a subspace are plain matrices with names of our own, which `workers.change.spaces` lists. One that
several units share is written once, and shared again when it is read.
"""

__all__ = ["read_units", "save_units"]

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from workers.change.spaces import filled_space, is_trained, space_config, space_tensors
from workers.change.subspaces import Part, Subspace
from workers.errors import StoreError, StudyError
from workers.wrapper.positions import PerExample, per_example
from workers.wrapper.units import From, IntervenedRun, Mean, Noise, Run, Unit

_FORMAT = 2
_READABLE = (1, _FORMAT)
"""In format 1 rotations are as torch called them, and every subspace is trained on."""
_INNER = "of."
"""What the tensors of a subspace inside another one are called there."""


def save_units(units: Sequence[Unit], folder: Path) -> None:
    """Write units into a folder, which is made where there is none.

    Raises:
        StudyError: a unit holds what no file can: a function, a subspace of a class of its own, or runs to
            average.
    """
    writer = _UnitWriter()
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
    if written.get("format") not in _READABLE:
        found, known = written.get("format"), " and ".join(map(str, _READABLE))
        raise StoreError(f"{folder} holds units of format {found}; this version reads {known}")
    reader = _UnitReader(tensors, [])
    try:
        for number, space in enumerate(written["subspaces"]):
            reader.spaces.append(reader.subspace(space, f"subspace.{number}."))
    except (LookupError, ValueError) as error:
        raise StoreError(f"{folder} holds numbers of other units ({error}); save them again") from error
    return tuple(reader.unit(unit) for unit in written["units"])


class _UnitWriter:
    """Units to plain data; subspaces and numbers are referred to by their number."""

    def __init__(self) -> None:
        self.spaces: list[Subspace] = []
        self.tensors: dict[str, Tensor] = {}

    def unit(self, unit: Unit) -> dict[str, Any]:
        if unit.coordinates is not None or callable(unit.intervention):
            raise StudyError(f"the unit at {unit.site!r} has a function of its own, which no file can hold")
        return {
            "site": unit.site,
            "layer": unit.layer,
            "head": unit.head,
            "position": _position(unit.position),
            "kind": unit.kind,
            "subspace": self._form(unit.subspace),
            "intervention": unit.intervention,
            "from": self._from(unit),
        }

    def subspace(self, space: Subspace) -> dict[str, Any]:
        number, inner, config = self._number(space), _inner(space), space_config(space)
        config["is_trained"] = is_trained(space)
        for name, tensor in space_tensors(space, is_trained_on=config["is_trained"]).items():
            if inner is None or not name.startswith(_INNER):
                self.tensors[f"subspace.{number}.{name}"] = tensor
        return config if inner is None else {**config, "of": {"number": self._number(inner)}}

    def _form(self, form: Any) -> Any:
        if isinstance(form, PerExample):
            return {"per_example": [self._form(one) for one in form]}
        if isinstance(form, Part):
            return {"number": self._number(form.of), "ranges": [list(ends) for ends in form.ranges]}
        if isinstance(form, Subspace):
            return {"number": self._number(form)}
        return form

    def _number(self, space: Subspace) -> int:
        """Its number; the first time it gets one, after the subspace inside it, which may be shared too."""
        found = next((number for number, known in enumerate(self.spaces) if known is space), None)
        if found is not None:
            return found
        space_config(space)  # refuses one that no file can hold
        if (inner := _inner(space)) is not None:
            self._number(inner)
        self.spaces.append(space)
        return len(self.spaces) - 1

    def _from(self, unit: Unit) -> Any:
        value = unit.from_
        if isinstance(value, str):
            return value
        if isinstance(value, Tensor):
            name = f"value.{len(self.tensors)}"
            self.tensors[name] = value.detach().contiguous().clone()
            return {"tensor": name}
        if isinstance(value, Noise):
            return {"noise": [value.scale, value.seed, value.first_example]}
        assert isinstance(value, From)
        if value.coordinates is not None:
            raise StudyError(f"the unit at {unit.site!r} has a function of its own, which no file can hold")
        place = {"site": value.site, "layer": value.layer, "head": value.head}
        return {"run": self._run(value.run, unit), **place, "position": _position(value.position)}

    def _run(self, run: Run, unit: Unit) -> Any:
        if isinstance(run, Mean):
            raise StudyError(f"the unit at {unit.site!r} averages runs; give the mean itself, as a tensor")
        return run if isinstance(run, str) else {"units": [self.unit(u) for u in run.units], "base": run.base}


class _UnitReader:
    """Plain data to units."""

    def __init__(self, tensors: Mapping[str, Tensor], spaces: list[Subspace]) -> None:
        self._tensors = tensors
        self.spaces = spaces

    def unit(self, data: Mapping[str, Any]) -> Unit:
        return Unit(
            data["site"],
            layer=data["layer"],
            head=data["head"],
            position=_read_position(data["position"]),
            kind=data["kind"],
            subspace=self._form(data["subspace"]),
            intervention=data["intervention"],
            from_=self._from(data["from"]),
        )

    def subspace(self, data: Mapping[str, Any], prefix: str) -> Subspace:
        """The subspace, around one that was read before where there is one inside."""
        config = {key: value for key, value in data.items() if key != "is_trained"}
        if isinstance(of := data.get("of"), dict):
            config["of"] = self.spaces[of["number"]]
        found = {name: tensor for name, tensor in self._tensors.items() if name.startswith(prefix)}
        own = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
        return filled_space(config, own, is_trained_on=data.get("is_trained", True))

    def _form(self, form: Any) -> Any:
        if not isinstance(form, dict):
            return form
        if "per_example" in form:
            return per_example(self._form(one) for one in form["per_example"])
        space = self.spaces[form["number"]]
        return Part(space, tuple((low, high) for low, high in form["ranges"])) if "ranges" in form else space

    def _from(self, value: Any) -> Any:
        if isinstance(value, str):
            return value
        if "tensor" in value:
            return self._tensors[value["tensor"]]
        if "noise" in value:
            return Noise(*value["noise"])
        run, position = value["run"], _read_position(value["position"])
        if not isinstance(run, str):
            run = IntervenedRun([self.unit(inner) for inner in run["units"]], run["base"])
        return From(run, value["site"], layer=value["layer"], head=value["head"], position=position)


def _position(form: Any) -> Any:
    if isinstance(form, PerExample):
        return {"per_example": list(form)}
    return form


def _read_position(form: Any) -> Any:
    return per_example(form["per_example"]) if isinstance(form, dict) else form


def _inner(space: Subspace) -> Subspace | None:
    """The subspace whose coordinates it masks."""
    inner = getattr(space, "of", None)
    return inner if isinstance(inner, Subspace) else None
