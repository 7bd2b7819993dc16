"""A study that is asked for more and more metrics: what a row shows lies in several files."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from views import numbers
from views.cells import Job, Lane

NAME = "stepwise"
LANES = (("llama", "float32"),)
PAIRS = numbers.PAIRS[:4]
METRICS: tuple[list[str] | None, ...] = (["logit_diff"], ["kl_base"], None)
"""What each run measures: what the labels get, then divergences, then all."""
SITES = ["block_output"]


def study(folder: Path, metrics: list[str] | None = None) -> dict[str, Any]:
    """The study file's content; the model lies in `folder`, beside it."""
    sweep = [{"name": "swap", "sites": SITES, "layers": "all", "positions": [1, "subject.last", -1]}]
    found = {"study": NAME, "model": "./llama", "pairs": PAIRS, "sweep": sweep}
    return found if metrics is None else {**found, "metrics": metrics}


def jobs(lane: Lane) -> Iterator[Job]:
    """Every job of the study: some of those of `numbers`."""
    for job in numbers.jobs(lane):
        if job.block == "swap" and job.axes["site"] in SITES and job.pair.row["n"] < len(PAIRS):
            yield replace(job, study=NAME)
