"""Names that content has: equal content has an equal id, on every machine and in every version.

An id is the first 128 bits of the SHA-256 of a tag and of canonical JSON: sorted keys, NFC text, one form
for each number. What changes no number of a result (device, attention kernel, batch size) is no part of it.
"""

__all__ = ["canonical_json", "cell_id", "content_id", "lane_identity", "pair_id", "unit_json"]

import hashlib
import json
import math
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from uuid import UUID

from workers.model.facts import ModelFacts
from workers.vocabulary import Cell, CellUnit, ModelSpec, NamedRun, Place, Prompt, Span, Vectors


def canonical_json(data: object) -> str:
    """The one spelling of plain data: equal data, equal text.

    Raises:
        ValueError: NaN or infinity, which have no place in an identity.
        TypeError: anything that is not plain data.
    """
    return json.dumps(_canonical(data), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def content_id(tag: str, data: object) -> UUID:
    """The id of plain data of the kind `tag`; raises as `canonical_json` does."""
    return _hash(tag, canonical_json(data))


def lane_identity(facts: ModelFacts, spec: ModelSpec) -> str:
    """A lane's identity as canonical JSON: what the model is, not how it is run.

    The name of a model whose revision hashes its files is no part of it: paths change, contents tell. The
    options of a built-in model are in its revision, those that are not written too.
    """
    # Options stood here once; without the key no lane of before would be known again.
    lane: dict[str, object] = {"revision": facts.revision, "dtype": facts.dtype, "options": {}}
    if spec.missing_weights is not None:
        lane["missing_weights"] = {spec.missing_weights: spec.seed}
    return canonical_json(lane if facts.is_hashed else {"ref": spec.ref, **lane})


def cell_id(lane: str, cell: Cell) -> UUID:
    """The id of a cell in a lane (see `lane_identity`)."""
    read = cell.read if isinstance(cell.read, int) else _text(cell.read)
    runs = f'"runs":[{",".join([_run_json(run) for run in cell.runs])}],' if cell.runs else ""
    # Written out by hand: thousands of cells a second; a test holds it equal to `canonical_json`. The seed
    # stood here once, before units had their own; without the key no cell of before would be known again.
    units = _units_json(cell.units)
    return _hash("cell", f'{{"lane":{lane},"read":{read},{runs}"seed":null,"units":{units}}}')


def unit_json(unit: CellUnit) -> str:
    """Canonical JSON of a unit: `canonical_json` of ``unit.to_json()``, several times faster."""
    place = _place_json(unit.place)
    origin = (
        "null" if unit.origin is None else place if unit.origin == unit.place else _place_json(unit.origin)
    )
    dims = "null" if unit.dims is None else f"[{','.join([f'[{lo},{hi}]' for lo, hi in unit.dims])}]"
    is_plain = unit.fit is None and unit.value_fit is None and unit.scale is None and unit.seed is None
    fit, more = ("", "") if is_plain else _fit_json(unit)
    return (
        f'{{"dims":{dims},{fit}"operation":{_text(unit.operation)},"origin":{origin},'
        f'"place":{place},"run":{_text(unit.run)}{more}}}'
    )


def pair_id(
    *,
    tokens: Mapping[str, Prompt],
    label_ids: Sequence[int],
    base_label_ids: Sequence[int],
    spans: Mapping[str, Mapping[str, Span]],
    used_spans: Collection[tuple[str, str]],
) -> UUID:
    """The id of a pair: token ids (or vectors) of every run, label ids as sets, and the spans that are used.

    `used_spans` is what ``studies.language.expand.used_spans`` found: (run, name), the name ``*`` for every
    span.
    """
    used = {
        run: {name: list(span) for name, span in named.items() if {(run, name), (run, "*")} & set(used_spans)}
        for run, named in spans.items()
    }
    data = {
        "tokens": {run: _prompt(prompt) for run, prompt in tokens.items()},
        "label_ids": sorted(set(label_ids)),
        "base_label_ids": sorted(set(base_label_ids)),
        "spans": {run: named for run, named in used.items() if named},
    }
    return content_id("pair", data)


def _hash(tag: str, text: str) -> UUID:
    return UUID(bytes=hashlib.sha256(f"swapyard:{tag}:1\n{text}".encode()).digest()[:16])


def _prompt(prompt: Prompt) -> object:
    """Ids as they are; of vectors, which are many numbers, shape and digest."""
    if isinstance(prompt, Vectors):
        return {"shape": list(prompt.shape), "sha256": prompt.digest}
    return list(prompt)


def _units_json(units: Sequence[CellUnit]) -> str:
    return f"[{','.join([unit_json(unit) for unit in units])}]"


def _fit_json(unit: CellUnit) -> tuple[str, str]:
    """Keys that few units have (of a fit, of noise), in the places where sorted keys have them."""
    fit = "" if unit.fit is None else f'"fit":{_text(unit.fit)},'
    scale = "" if unit.scale is None else f',"scale":{json.dumps(_number(unit.scale))}'
    seed = "" if unit.seed is None else f',"seed":{unit.seed}'
    return fit, scale + seed + ("" if unit.value_fit is None else f',"value_fit":{_text(unit.value_fit)}')


def _run_json(run: NamedRun) -> str:
    return f"[{_text(run.name)},{_units_json(run.units)}]"


def _place_json(place: Place) -> str:
    heads = "null" if place.heads is None else f"[{','.join(map(str, place.heads))}]"
    layer = "null" if place.layer is None else place.layer
    position = ",".join([str(item) if isinstance(item, int) else _text(item) for item in place.position])
    region = "" if place.coordinates is None else f'"coordinates":{canonical_json(place.coordinates)},'
    return f'{{{region}"heads":{heads},"layer":{layer},"position":[{position}],"site":{_text(place.site)}}}'


@lru_cache(maxsize=4096)
def _text(text: str) -> str:
    return json.dumps(unicodedata.normalize("NFC", text), ensure_ascii=False)


def _canonical(data: object) -> object:
    if isinstance(data, str):
        return unicodedata.normalize("NFC", data)
    if data is None or isinstance(data, bool | int):
        return data
    if isinstance(data, float):
        return _number(data)
    if isinstance(data, Mapping):
        return _mapping(data)
    if isinstance(data, list | tuple):
        return [_canonical(item) for item in data]
    raise TypeError(f"{data!r} is no plain data")


def _number(value: float) -> int | float:
    if isinstance(value, int):
        return value
    if not math.isfinite(value):
        raise ValueError(f"{value!r} has no place in an identity; only finite numbers do")
    return int(value) if value.is_integer() else value


def _mapping(data: Mapping[object, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in data.items():
        if not isinstance(key, str):
            raise TypeError(f"the key {key!r} is no text")
        name = unicodedata.normalize("NFC", key)
        if name in found:
            raise ValueError(f"two keys are spelt {name!r} once Unicode is normalised")
        found[name] = _canonical(value)
    return found
