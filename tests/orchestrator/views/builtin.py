"""The study of a built-in decoder's numbers, as a language model and as a classifier: token ids, no words."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from views.cells import Job, Lane, cell, unit
from views.plain import Pair

NAME = "builtin"
OPTIONS = (
    {"vocab_size": 11, "width": 12, "num_layers": 2, "num_heads": 2, "seed": 3},
    {"vocab_size": 11, "width": 12, "num_layers": 2, "num_heads": 2, "seed": 4, "outputs": 5},
)
PAIRS: list[dict[str, Any]] = [
    {"n": 0, "base_ids": [1, 5, 2, 8], "source_ids": [3, 3, 7, 4], "base_label": 0, "label": 4},
    {"n": 1, "base_ids": [1, 5, 9, 9, 2], "source_ids": [1, 6, 0], "base_label": [1, 3], "label": [2, 0]},
    {"n": 2, "base_ids": [10, 2, 2, 1], "source_ids": [4, 8, 10, 6, 5], "label": 3},
]
SITES = ("block_output", "mlp_output")
SWEEP = [{"name": "swap", "sites": list(SITES), "layers": "all", "positions": [1, -1]}]


def study(folder: Path) -> dict[str, Any]:
    """The study file's content."""
    models = [{"ref": "zoo:gpt", **options} for options in OPTIONS]
    return {"study": NAME, "models": models, "pairs": PAIRS, "sweep": SWEEP}


def jobs(lane: Lane) -> Iterator[Job]:
    """Every job that the study has in a lane."""
    for row in PAIRS:
        label, base_label = (row.get(name, []) for name in ("label", "base_label"))
        pair = Pair(
            row=row,
            tokens={"base": row["base_ids"], "source": row["source_ids"]},
            spans={"base": {}, "source": {}},
            label_ids=[label] if isinstance(label, int) else label,
            base_label_ids=[base_label] if isinstance(base_label, int) else base_label,
        )
        for site in SITES:
            for layer in (0, 1):
                for position in (1, -1):
                    axes = {"site": site, "layer": layer, "position": position}
                    yield Job(NAME, lane, "swap", axes, cell(pair, unit(pair, site, layer, position)), pair)
