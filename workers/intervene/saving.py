"""Units and subspaces as files: ``units.json`` says what they are, ``units.safetensors`` holds their tensors.

Tensors of a subspace are plain matrices with names of our own: ``rotation`` [W, K], orthonormal columns, of
learned directions, ``mask`` [K], ``boundary``, ``components`` [W, K] and ``mean`` [W] of a PCA; those of a
subspace inside another one begin with ``of.``. A subspace that several units share is written once, and
shared again when it is read. Files of fits hold the same.
"""

__all__ = ["filled_space", "is_trained", "read_units", "save_units", "space_config", "space_tensors"]

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from workers.errors import StoreError, StudyError
from workers.intervene.features import PCA, SparseAutoencoder
from workers.intervene.masks import BoundlessRotation, Mask
from workers.intervene.positions import PerExample, PositionForm, per_example
from workers.intervene.subspaces import LowRankRotation, Part, Rotation, Subspace
from workers.intervene.units import From, IntervenedRun, Mean, Noise, Run, Unit, UnitValue
from workers.libraries.torch_rotations import plain_rotations

Plain = Mapping[str, Any]
"""Plain data of a subspace or a unit, as JSON files hold it."""

_KINDS: Mapping[str, type[Subspace]] = {
    "rotation": Rotation,
    "low_rank_rotation": LowRankRotation,
    "boundless_rotation": BoundlessRotation,
    "mask": Mask,
    "pca": PCA,
    "sparse_autoencoder": SparseAutoencoder,
}


def space_config(space: Subspace) -> dict[str, object]:
    """Kind of a subspace and the options that make an equal one; of a subspace inside it likewise.

    Raises:
        StudyError: it is of a caller's own class.
    """
    kind = next((name for name, known in _KINDS.items() if isinstance(space, known)), None)
    if kind is None:
        name = type(space).__name__
        raise StudyError(f"a {name} is a subspace of its own class, which no file can hold; keep it in code")
    config = space.config()
    return {
        "kind": kind,
        **{k: space_config(v) if isinstance(v, Subspace) else v for k, v in config.items()},
    }


def space_tensors(space: Subspace, *, is_trained_on: bool = False) -> dict[str, Tensor]:
    """Tensors of a subspace by our names, in main memory; those of one inside it begin with ``of.``.

    With `is_trained_on` also what a training goes on from: ``rotation_start`` [W, W] and ``rotation_step``
    [W, K].
    """
    return {
        f"{path}.{name}" if path else name: tensor.detach().cpu().contiguous()
        for path, part in _parts(space)
        for name, tensor in part.tensors(is_trained_on=is_trained_on).items()
    }


def filled_space(data: Plain, tensors: Mapping[str, Tensor], *, is_trained_on: bool = False) -> Subspace:
    """The subspace that `space_config` and `space_tensors` gave, on the CPU.

    Args:
        data: its kind and what makes an equal one; a subspace around one that is there already has that one
            as its ``of``, whose numbers are not asked for.
        tensors: its numbers; of files of before, rotations as torch called them then.
        is_trained_on: whether a training may go on from them.

    Raises:
        KeyError, ValueError: the numbers are not those of such a subspace.
    """
    given = plain_rotations(tensors)
    space = _blank(data)
    inner = data.get("of")
    there_already = set(inner.modules()) if isinstance(inner, Subspace) else set()
    for path, part in _parts(space):
        if part not in there_already:
            prefix = f"{path}." if path else ""
            part.fill(_taken(given, prefix), is_trained_on=is_trained_on)
            for parameter in _own_parameters(part):
                parameter.requires_grad_(is_trained_on)
    if given:
        raise ValueError(f"there is a tensor {next(iter(given))!r}, and no place for it")
    return space


def is_trained(space: Subspace) -> bool:
    """Whether a training would change numbers of its own, not those of a subspace inside it."""
    return any(parameter.requires_grad for parameter in _own_parameters(space))


def _blank(data: Plain) -> Subspace:
    """A subspace of this kind and shape, whose tensors are still to be filled."""
    config = {key: value for key, value in data.items() if key != "kind"}
    if isinstance(inner := config.get("of"), dict):
        config["of"] = _blank(inner)
    kind: Any = _KINDS[data["kind"]]
    make: Callable[..., Subspace] = getattr(kind, "blank", None) or (lambda given: kind(**given))
    return make(config)


def _parts(space: Subspace) -> list[tuple[str, Subspace]]:
    """Subspace and those inside it, each with its path, outermost first."""
    return [(path, part) for path, part in space.named_modules() if isinstance(part, Subspace)]


def _own_parameters(space: Subspace) -> list[Parameter]:
    """Parameters of a subspace without those of one inside it."""
    inner = {id(one) for path, part in _parts(space) if path for one in part.parameters()}
    return [one for one in space.parameters() if id(one) not in inner]


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors directly below `prefix`, which are taken out of `tensors`."""
    names = [name for name in tensors if name.startswith(prefix) and "." not in name.removeprefix(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


_FORMAT = 2
_READABLE = (1, _FORMAT)
"""Formats that are read: in 1 rotations are as torch called them, and every subspace is trained on."""
_INNER = "of."
"""Prefix of the tensors of a subspace inside another one."""


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

    def unit(self, unit: Unit) -> dict[str, object]:
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

    def subspace(self, space: Subspace) -> dict[str, object]:
        number, inner, config = self._number(space), _inner(space), space_config(space)
        config["is_trained"] = is_learned = is_trained(space)
        for name, tensor in space_tensors(space, is_trained_on=is_learned).items():
            if inner is None or not name.startswith(_INNER):
                self.tensors[f"subspace.{number}.{name}"] = tensor
        return config if inner is None else {**config, "of": {"number": self._number(inner)}}

    def _form(self, form: object) -> object:
        if isinstance(form, PerExample):
            return {"per_example": [self._form(one) for one in form]}
        if isinstance(form, Part):
            return {"number": self._number(form.of), "ranges": [list(ends) for ends in form.ranges]}
        if isinstance(form, Subspace):
            return {"number": self._number(form)}
        return form

    def _number(self, space: Subspace) -> int:
        """Number of a subspace; a new one comes after the one inside it, which may be shared too."""
        found = next((number for number, known in enumerate(self.spaces) if known is space), None)
        if found is not None:
            return found
        space_config(space)  # refuses one that no file can hold
        if (inner := _inner(space)) is not None:
            self._number(inner)
        self.spaces.append(space)
        return len(self.spaces) - 1

    def _from(self, unit: Unit) -> object:
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

    def _run(self, run: Run, unit: Unit) -> object:
        if isinstance(run, Mean):
            raise StudyError(f"the unit at {unit.site!r} averages runs; give the mean itself, as a tensor")
        return run if isinstance(run, str) else {"units": [self.unit(u) for u in run.units], "base": run.base}


class _UnitReader:
    """Plain data to units."""

    def __init__(self, tensors: Mapping[str, Tensor], spaces: list[Subspace]) -> None:
        self._tensors = tensors
        self.spaces = spaces

    def unit(self, data: Plain) -> Unit:
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

    def subspace(self, data: Plain, prefix: str) -> Subspace:
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

    def _from(self, value: str | Plain) -> UnitValue:
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


def _position(form: PositionForm | None) -> object:
    if isinstance(form, PerExample):
        return {"per_example": list(form)}
    return form


def _read_position(form: Any) -> Any:
    return per_example(form["per_example"]) if isinstance(form, dict) else form


def _inner(space: Subspace) -> Subspace | None:
    """The subspace whose coordinates it masks."""
    inner = getattr(space, "of", None)
    return inner if isinstance(inner, Subspace) else None
