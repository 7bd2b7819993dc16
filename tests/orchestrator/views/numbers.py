"""The study of the views' numbers: three lanes, pairs of all kinds, every operation and source of values."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from views.cells import Cell, Job, Lane, cell, text_pair, unit
from views.plain import Pair

NAME = "numbers"


def _spans(base: str, source: str | None = None) -> dict[str, str]:
    """The country, and the two words that end with it; of the source alike."""
    found = {"span.subject": base.split()[-1], "span.place": base}
    if source is not None:
        found |= {"source.span.subject": source.split()[-1], "source.span.place": source}
    return found


PAIRS: list[dict[str, Any]] = [
    {
        "base": "The capital of Spain is",
        "source": "The capital of Italy is",
        "source_2": "A town in Peru is",
        "base_label": " Madrid",
        "source_label": " Rome",
        "label": " Rome",
        **_spans("of Spain", "of Italy"),
        "iia": 7.5,
        "at": "home",
    },
    {  # Its source is shorter, and two words count.
        "base": "The old capital of France is",
        "source": "A town in Peru is",
        "source_2": "The capital of Chile is",
        "base_label": " Paris",
        "label": [" Lima", " Rome"],
        **_spans("of France", "in Peru"),
        "iia": -2.25,
    },
    {  # Its source is longer, and nothing is predicted of it.
        "base": "A town in Chile is",
        "source": "The old town of Italy is",
        "base_label": [" Santiago", " is"],
        **_spans("in Chile", "of Italy"),
        "at": "away",
    },
    {  # The label is the source's, and there is no base label.
        "base": "The old capital of Peru is",
        "source": "The old town in Chile is",
        "source_label": " Santiago",
        **_spans("of Peru", "in Chile"),
    },
    {  # Both labels are the same words.
        "base": "The capital of Italy is",
        "source": "The capital of Spain is",
        "base_label": [" river", " Rome"],
        "label": [" Rome", " river"],
        **_spans("of Italy", "of Spain"),
    },
    {  # No source.
        "base": "The capital of Peru is",
        "base_label": " Lima",
        "label": " town",
        **_spans("of Peru"),
    },
    {  # No label at all.
        "base": "A river near Lima in Peru is",
        "source": "The capital of France is",
        **_spans("in Peru", "of France"),
    },
    {  # The first base once more, with another source.
        "base": "The capital of Spain is",
        "source": "The old capital of Chile is",
        "base_label": " Madrid",
        "label": " near",
        **_spans("of Spain", "of Chile"),
    },
]
PAIRS.append({**PAIRS[0], "iia": 4.0, "at": "twice"})
PAIRS = [{"n": number, **pair} for number, pair in enumerate(PAIRS)]

SWEEP: list[dict[str, Any]] = [
    {
        "name": "swap",
        "models": ["./llama", "./gpt2", {"ref": "./gpt2", "dtype": "bfloat16"}],
        "sites": ["mlp_output", "block_output"],
        "layers": "all",
        "positions": [1, "subject.last", -1],
    },
    {
        "name": "heads",
        "site": "attention_value_output",
        "layer": 1,
        "heads": "all",
        "position": -1,
        "subspaces": ["0:3", "all"],
    },
    {"name": "query", "site": "query_output", "layer": 0, "head": [0, 2], "position": "place"},
    {
        "name": "values",
        "site": "mlp_output",
        "layer": 1,
        "position": 2,
        "for": [
            {"value": "zero", "how": "vanilla"},
            {"value": "base", "how": "vanilla"},
            {"value": "base", "how": "add"},
            {"value": "source_2", "how": "subtract"},
        ],
        "from": "$value",
        "intervention": "$how",
    },
    {
        "name": "elsewhere",
        "site": "block_output",
        "layer": 1,
        "position": -1,
        "from": {"run": "source", "site": "mlp_output", "layer": 0, "position": 1},
    },
    {
        "name": "ops",
        "site": "mlp_output",
        "layers": "all",
        "position": -1,
        "interventions": ["subtract", "skip", "steering:limited"],
    },
    {
        "name": "reads",
        "site": "block_output",
        "layer": 0,
        "position": 2,
        "reads": [-1, 3, "subject.last", 1],
    },
    {"name": "region", "site": "mlp_output", "layer": 1, "coordinates": "3:5, 0:7"},
    {
        "name": "sent",
        "runs": {"sent": [{"site": "mlp_output", "layer": 0, "position": "subject.last"}]},
        "units": [{"site": "attention_output", "layer": 1, "position": -1, "from": "sent"}],
    },
    {
        "name": "two",
        "units": [
            {"site": "mlp_output", "layer": 1, "position": -1},
            {"site": "attention_output", "layer": 0, "position": "subject.last", "from": "zero"},
        ],
    },
    {
        "name": "noise",
        "seeds": [0, 1],
        "position": "subject.last",
        "units": [
            {"site": "block_input", "layer": 0, "intervention": "add", "from": {"noise": 3}},
            {"site": "block_input", "layer": 0, "intervention": "collect"},
        ],
    },
    {"name": "twice", "site": "attention_output", "layer": 1, "positions": [-1, 4]},
]


def study(folder: Path) -> dict[str, Any]:
    """The study file's content; the models lie in `folder`, beside it."""
    return {"study": NAME, "models": ["./llama", "./gpt2"], "missing": "skip", "pairs": PAIRS, "sweep": SWEEP}


LANES = (("llama", "float32"), ("gpt2", "float32"), ("gpt2", "bfloat16"))


def jobs(lane: Lane) -> Iterator[Job]:
    """Every job that the study has in a lane."""
    for row in PAIRS:
        pair = text_pair(lane.family, row)
        for block, axes, made in _cells(lane.family, pair):
            units = [*made["units"], *(one for _, of in made.get("runs", ()) for one in of)]
            is_there = all(one["run"] in (*pair.tokens, "zero", "noise", "sent") for one in units)
            if is_there and (lane.dtype == "float32" or block == "swap"):
                yield Job(NAME, lane, block, axes, made, pair)


def _cells(family: str, pair: Pair) -> Iterator[tuple[str, dict[str, Any], Cell]]:
    """Block, axes as written, and the cell, whether the pair has its runs or not."""
    num_layers, num_heads = {"llama": (3, 4), "gpt2": (2, 3)}[family]
    for site in ("mlp_output", "block_output"):
        for layer in range(num_layers):
            for position in (1, "subject.last", -1):
                yield _block("swap", pair, site, layer, position)
    for head in range(num_heads):
        for subspace, dims in (("0:3", [[0, 3]]), ("all", None)):
            yield _block(
                "heads",
                pair,
                "attention_value_output",
                1,
                -1,
                axes={"head": head, "subspace": subspace},
                heads=[head],
                dims=dims,
            )
    yield _block("query", pair, "query_output", 0, "place", heads=[0, 2])
    for value, how in (("zero", "vanilla"), ("base", "vanilla"), ("base", "add"), ("source_2", "subtract")):
        axes = {"value": value, "how": how, "from": value, "intervention": how}
        yield _block("values", pair, "mlp_output", 1, 2, axes=axes, operation=how, run=value)
    yield _block(
        "elsewhere", pair, "block_output", 1, -1, axes={"from": "source"}, origin=("mlp_output", 0, 1)
    )
    for layer in range(num_layers):
        for how in ("subtract", "steering:limited"):
            yield _block("ops", pair, "mlp_output", layer, -1, axes={"intervention": how}, operation=how)
        yield _block(
            "ops", pair, "mlp_output", layer, -1, axes={"intervention": "skip"}, operation="skip", run="zero"
        )
    for read in (-1, 3, "subject.last", 1):
        yield _block("reads", pair, "block_output", 0, 2, axes={"read": read}, read=read)
    yield _region(pair)
    sent = [unit(pair, "mlp_output", 0, "subject.last")]
    sending = unit(pair, "attention_output", 1, -1, run="sent")
    axes = {"site": "attention_output", "layer": 1, "position": -1, "from": "sent"}
    yield "sent", axes, cell(pair, sending, runs=[("sent", sent)])
    late = unit(pair, "mlp_output", 1, -1)
    early = unit(pair, "attention_output", 0, "subject.last", run="zero")
    yield "two", {}, cell(pair, late, early)
    for seed in (0, 1):
        yield _noise(pair, seed)
    for position in (-1, 4):
        yield _block("twice", pair, "attention_output", 1, position)


def _block(
    block: str,
    pair: Pair,
    site: str,
    layer: int,
    position: int | str,
    *,
    axes: Mapping[str, Any] = {},
    read: int | str = -1,
    **more: Any,
) -> tuple[str, dict[str, Any], Cell]:
    """A block of one unit."""
    written = {"site": site, "layer": layer, "position": position, **axes}
    return block, written, cell(pair, unit(pair, site, layer, position, **more), read=read)


def _region(pair: Pair) -> tuple[str, dict[str, Any], Cell]:
    found = unit(pair, "mlp_output", 1, 0)
    for side in ("place", "origin"):
        found[side] = {**found[side], "position": [], "coordinates": "3:5, 0:7"}
    return "region", {"site": "mlp_output", "layer": 1}, cell(pair, found)


def _noise(pair: Pair, seed: int) -> tuple[str, dict[str, Any], Cell]:
    at = ("block_input", 0, "subject.last")
    drawn = unit(pair, *at, operation="add", run="noise", scale=3, seed=seed)
    collected = unit(pair, *at, operation="collect", run="zero")
    axes = {"site": at[0], "layer": at[1], "position": at[2], "seed": seed}
    return "noise", axes, cell(pair, drawn, collected)
