"""The study of screening's numbers: cells that are estimated, some that run, one that cannot be estimated."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from views import numbers
from views.cells import Cell, Job, Lane, cell, text_pair, unit
from views.expected import Near
from views.plain import Network, Pair, answer, estimate, intervened
from views.scores import AXES, read_of

NAME = "screened"
LANES = (("llama", "float32"), ("gpt2", "float32"))
PAIRS: list[dict[str, Any]] = [
    {name: value for name, value in row.items() if name not in ("iia", "at")}
    for row in numbers.PAIRS[:7]
    if "source" in row
]
KEEP, SAMPLE = 4, 3
SWEEP: list[dict[str, Any]] = [
    {
        "name": "parts",
        "sites": ["mlp_output", "attention_output"],
        "layers": "all",
        "positions": [-1, "subject.last"],
    },
    {
        "name": "gone",
        "site": "attention_value_output",
        "layer": 0,
        "heads": "all",
        "position": -1,
        "from": "zero",
    },
    {
        "name": "pair",
        "units": [
            {"site": "mlp_output", "layer": 0, "position": -1},
            {"site": "mlp_output", "layer": 0, "position": -1, "intervention": "add", "from": "base"},
            {"site": "attention_output", "layer": 1, "position": "subject.last"},
        ],
    },
    {"name": "left-out", "site": "mlp_output", "layer": 1, "position": -1, "intervention": "skip"},
]


def study(folder: Path) -> dict[str, Any]:
    """The study file's content; the models lie in `folder`, beside it."""
    screen = {"method": "attribution", "keep": KEEP, "sample": SAMPLE, "seed": 1}
    return {"study": NAME, "models": ["./llama", "./gpt2"], "pairs": PAIRS, "screen": screen, "sweep": SWEEP}


def jobs(lane: Lane) -> Iterator[Job]:
    """Every job that the study may have in a lane."""
    for row in PAIRS:
        pair = text_pair(lane.family, row)
        for block, axes, made in _cells(lane.family, pair):
            yield Job(NAME, lane, block, axes, made, pair)


def _cells(family: str, pair: Pair) -> Iterator[tuple[str, Mapping[str, Any], Cell]]:
    num_layers, num_heads = {"llama": (3, 4), "gpt2": (2, 3)}[family]
    for site in ("mlp_output", "attention_output"):
        for layer in range(num_layers):
            for position in (-1, "subject.last"):
                axes = {"site": site, "layer": layer, "position": position}
                yield "parts", axes, cell(pair, unit(pair, site, layer, position))
    for head in range(num_heads):
        axes = {"site": "attention_value_output", "layer": 0, "position": -1, "head": head, "from": "zero"}
        gone = unit(pair, "attention_value_output", 0, -1, heads=[head], run="zero")
        yield "gone", axes, cell(pair, gone)
    swapped = unit(pair, "mlp_output", 0, -1)
    doubled = unit(pair, "mlp_output", 0, -1, operation="add", run="base")
    other = unit(pair, "attention_output", 1, "subject.last")
    yield "pair", {}, cell(pair, swapped, doubled, other)
    axes = {"site": "mlp_output", "layer": 1, "position": -1, "intervention": "skip"}
    yield "left-out", axes, cell(pair, unit(pair, "mlp_output", 1, -1, operation="skip", run="zero"))


@dataclass(frozen=True)
class Screened:
    """A written cell: its row of the view, and its jobs that run, each with its estimate."""

    row: Mapping[str, Any]
    jobs_run: Sequence[tuple[Job, Near | None]]


def cells(lane: Lane, network: Network, ran: Collection[UUID]) -> list[Screened]:
    """All cells of a lane.

    Args:
        lane: which.
        network: its model.
        ran: the ids of the cells that ran; of those with smaller effects it tells which are the sample.
    """
    members: dict[UUID, list[Job]] = {}
    for job in jobs(lane):
        members.setdefault(job.cell_id, []).append(job)
    estimates = {
        key: [None if job.block == "left-out" else estimate(network, job.pair, job.cell) for job in of]
        for key, of in members.items()
    }
    effects = {key: _effect(values) for key, values in estimates.items()}
    known = {key: effect for key, effect in effects.items() if effect is not None}
    ordered = sorted(known, key=known.__getitem__, reverse=True)
    assert known[ordered[KEEP - 1]] > 1.001 * known[ordered[KEEP]], "no rounding decides what is kept"
    others = ordered[KEEP:]
    sampled = [key for key in others if key in ran]
    assert len(sampled) == SAMPLE
    words = {
        **dict.fromkeys(members, ("exact", None)),
        **dict.fromkeys(ordered[:KEEP], ("kept", 1.0)),
        **dict.fromkeys(others, ("left", None)),
        **dict.fromkeys(sampled, ("sampled", Near(len(others) / SAMPLE, 1e-9))),
    }
    return [_screened(of, estimates[key], *words[key], network) for key, of in members.items()]


def _screened(
    of: Sequence[Job],
    estimates: Sequence[float | None],
    selected: str,
    weight: Any,
    network: Network,
) -> Screened:
    job = of[0]
    exact = [] if selected == "left" else _changes(network, of)
    row = {
        "study": NAME,
        "cell_id": job.cell_id,
        "model": job.lane.model,
        "dtype": job.lane.dtype,
        "revision": job.lane.revision,
        "block": job.block,
        **{name: job.axes.get(name) for name in AXES},
        "selected": selected,
        "weight": weight,
        "estimated_effect": _near(_effect(estimates)),
        "estimated_change": _near(_mean(estimates)),
        "num_estimates": len([one for one in estimates if one is not None]),
        "exact_effect": _near(_effect(exact)),
        "exact_change": _near(_mean(exact)),
        "num_exact": len([one for one in exact if one is not None]),
    }
    run = zip(of, map(_near, estimates), strict=True)
    return Screened(row, [] if selected == "left" else list(run))


def _changes(network: Network, jobs: Sequence[Job]) -> list[float | None]:
    """By how much the answer of each is another than the clean base run's; None without labels."""
    found: list[float | None] = []
    for job, logits in zip(jobs, intervened(network, [(job.pair, job.cell) for job in jobs]), strict=True):
        read = read_of(job.pair, job.cell["read"])
        after = answer(logits[read], job.pair)
        before = answer(network.clean(job.pair.tokens["base"])[0][read], job.pair)
        found.append(None if after is None or before is None else float(after - before))
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _effect(values: Sequence[float | None]) -> float | None:
    """The mean size."""
    return _mean([None if value is None else abs(value) for value in values])


def _near(value: float | None) -> Near | None:
    return None if value is None else Near(value, 1e-4)
