"""The study of the fits' numbers: every method, two models, some fits by axes, one that cannot be made."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from views.cells import Cell, Job, Lane, cell, text_pair, unit
from views.plain import Pair

NAME = "fitted"
LANES = (("llama", "float32"), ("gpt2", "float32"))
CITIES = {"Spain": "Madrid", "Italy": "Rome", "France": "Paris", "Peru": "Lima", "Chile": "Santiago"}


def _pair(
    base: str, source: str, split: str, template: str, kinds: str, *, label: Any = "city"
) -> dict[str, Any]:
    """A pair of countries in one template; `kinds` are the classes of its base and its source."""
    text = {"capital": "The capital of {} is", "town": "A town in {} is"}[template]
    found = {
        "base": text.format(base),
        "source": text.format(source),
        "base_label": f" {CITIES[base]}",
        "label": [f" {CITIES[source]}"] if label == "city" else label,
        "span.subject": base,
        "source.span.subject": source,
        "split": split,
        "template": template,
        "base_class": kinds[0],
        "source_class": kinds[1],
    }
    return {name: value for name, value in found.items() if value is not None}


MANY = [" old", " river", " Spain", " Lima", " Peru", " in", " town", " Italy"]
MORE = [" near", " capital", " of", " France", " Rome", " Chile", " Paris", " is", " Madrid", " Santiago"]
PAIRS: list[dict[str, Any]] = [
    _pair("Spain", "Italy", "train", "capital", "xy"),
    _pair("Italy", "France", "train", "capital", "xx"),
    _pair("France", "Spain", "train", "capital", "yx"),
    _pair("Spain", "France", "train", "town", "xy"),
    # It has no label, so that nothing is trained on it.
    _pair("Italy", "Spain", "train", "town", "xy", label=None),
    _pair("Peru", "Chile", "test", "capital", "yy", label=MANY),
    _pair("Chile", "Peru", "test", "capital", "xx", label=MORE),
    _pair("Peru", "Chile", "test", "town", "yx", label=MORE[:5] + MANY[:5]),
    # It shares a prompt with those that are trained on, so that nothing is measured on it.
    _pair("Spain", "Peru", "test", "capital", "xx"),
]
PAIRS = [{"n": number, **pair} for number, pair in enumerate(PAIRS)]

TRAINED = {"where": "split = 'train'", "lr": 1e-8, "batch_size": 16}
"""So small a rate that what is trained stays what it was drawn as: its loss follows from what is kept."""
METHODS: dict[str, dict[str, Any]] = {
    "das": {"method": "das", "ranks": [1, 3], "seeds": [0, 1], "num_steps": 2, **TRAINED},
    "bound": {
        "method": "boundless",
        "seed": 3,
        "num_steps": 3,
        "penalty": 0.7,
        "temperature": [8, 2],
        **TRAINED,
    },
    "gate": {
        "method": "mask",
        "rank": 4,
        "seed": 5,
        "num_steps": 4,
        "penalty": 0.3,
        "temperature": [4, 1],
        **TRAINED,
    },
    "pca": {"method": "pca", "rank": 2},
    "probe": {"method": "probe", "where": "template = 'capital'"},
    "drawn": {"method": "random_rotation", "rank": 5, "seed": 9},
    "mu": {"method": "mean", "of": "source", "per": ["template"], "where": "n <> 4"},
    "v": {"method": "mean_difference", "where": "split = 'test'"},
    "S": {"method": "sae", "path": "features.safetensors"},
    "broken": {"method": "das", "rank": 1, "num_steps": 3, "lr": 1e30, "where": "split = 'train'"},
}
COORDINATES = ("das", "das[0:1]", "pca", "pca[1:2]", "probe", "drawn")
SWEEP: list[dict[str, Any]] = [
    {"name": "turned", "site": "block_output", "layer": 1, "position": -1, "subspaces": list(COORDINATES)},
    {"name": "gated", "site": "mlp_output", "layers": [0, 1], "position": -1, "subspaces": ["bound", "gate"]},
    {
        "name": "headed",
        "site": "attention_value_output",
        "layer": 0,
        "head": [0, 2],
        "position": -1,
        "subspace": "pca",
    },
    {"name": "ablated", "site": "mlp_output", "layer": 1, "position": "subject.last", "from": "mu"},
    {"name": "averaged", "site": "attention_output", "layer": 0, "position": -1, "from": "mean"},
    {
        "name": "steered",
        "site": "mlp_output",
        "layer": 0,
        "position": -1,
        "intervention": "add",
        "for": {"a": [-4, 3]},
        "from": {"fit": "v", "scale": "$a"},
    },
    {
        "name": "read",
        "model": "./llama",
        "site": "block_output",
        "layer": 0,
        "position": -1,
        "subspaces": ["S", "S[2:9]"],
    },
    {"name": "broken", "site": "block_output", "layer": 0, "position": -1, "subspace": "broken"},
]


def study(folder: Path) -> dict[str, Any]:
    """The study file's content; the models and the autoencoder lie in `folder`, beside it."""
    models = ["./llama", "./gpt2"]
    return {"study": NAME, "models": models, "pairs": PAIRS, "fits": METHODS, "sweep": SWEEP}


Fits = Mapping[tuple[Any, ...], str]
"""Name, layer, rank, seed, template → identity, in one lane; None for what a fit does not have."""


def jobs(lane: Lane, fits: Fits) -> Iterator[Job]:
    """Every job that the study has in a lane, but for those of the fit that cannot be made."""
    for row in PAIRS:
        pair = text_pair(lane.family, row)
        for block, axes, made in _cells(lane.family, pair, fits):
            yield Job(NAME, lane, block, axes, made, pair)


def _cells(family: str, pair: Pair, fits: Fits) -> Iterator[tuple[str, dict[str, Any], Cell]]:
    for subspace in COORDINATES:
        name, _, part = subspace.removesuffix("]").partition("[")
        dims = [[int(end) for end in part.split(":")]] if part else None
        for rank, seed in [(r, s) for r in (1, 3) for s in (0, 1)] if name == "das" else [(None, None)]:
            known = (name, *_drawn(name, rank, seed))
            axes = {"subspace": subspace, "fit_rank": rank, "seed": seed}
            fit = fits[known[0], 1, *known[1:], None]
            yield _block("turned", pair, "block_output", 1, -1, axes, dims=dims, fit=fit)
    for layer in (0, 1):
        for name in ("bound", "gate"):
            fit = fits[name, layer, *_drawn(name, None, None), None]
            yield _block("gated", pair, "mlp_output", layer, -1, {"subspace": name}, fit=fit)
    headed = fits["pca", 0, 2, None, None]
    yield _block(
        "headed", pair, "attention_value_output", 0, -1, {"subspace": "pca"}, heads=[0, 2], fit=headed
    )
    template = pair.row["template"]
    mean = {"run": "fit", "value_fit": fits["mu", 1, None, None, template]}
    yield _block("ablated", pair, "mlp_output", 1, "subject.last", {"from": "mu"}, **mean)
    mean = {"run": "fit", "value_fit": fits["mean", 0, None, None, None]}
    yield _block("averaged", pair, "attention_output", 0, -1, {"from": "mean"}, **mean)
    for a in (-4, 3):
        axes = {"a": a, "from": "v", "intervention": "add"}
        steer = {"run": "fit", "value_fit": fits["v", 0, None, None, None], "scale": a}
        yield _block("steered", pair, "mlp_output", 0, -1, axes, operation="add", **steer)
    if family == "llama":
        for subspace, part in (("S", None), ("S[2:9]", [[2, 9]])):
            fit = fits["S", 0, None, None, None]
            yield _block("read", pair, "block_output", 0, -1, {"subspace": subspace}, dims=part, fit=fit)


def _drawn(name: str, rank: int | None, seed: int | None) -> Sequence[int | None]:
    """Rank and seed of a fit, of its own axes or as its method says."""
    spec = METHODS[name]
    return spec.get("rank", rank), spec.get("seed", seed)


def _block(
    block: str, pair: Pair, site: str, layer: int, position: int | str, axes: Mapping[str, Any], **more: Any
) -> tuple[str, dict[str, Any], Cell]:
    written = {"site": site, "layer": layer, "position": position, **axes}
    return block, written, cell(pair, unit(pair, site, layer, position, **more))
