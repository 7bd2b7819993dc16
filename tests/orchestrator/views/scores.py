"""The columns of `results`, `scores` and `runs` by hand, from logits in float64.

Shapes: V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import torch
from torch import Tensor

from views.cells import Job
from views.expected import Near, OneOf
from views.plain import Cell, Network, Pair, intervened, located

BOUNDS = {"float32": 1e-5, "float16": 2.0**-7, "bfloat16": 2.0**-4}
"""Near ties, and what two forwards of one job may differ by, as shares of the first choice's logit and of the
largest absolute logit (docs/views.md, docs/replay.md)."""

PAIR_COLUMNS = ("base", "source", "base_label", "source_label", "label")
AXES = (
    *("site", "layer", "head", "position", "subspace", "intervention", "from", "read", "seed", "fit_rank"),
    *("value", "how", "a"),
)
OWN = {"iia": "pair.iia", "study": "pair.study"}
"""Columns of pairs that are called otherwise in `results`, since the name is taken."""


@dataclass(frozen=True)
class Values:
    """What one run says of a pair's labels; all None where there is no such run."""

    logits: Tensor
    """[V], float64."""
    off: float
    """By how much a logit may be off."""

    @classmethod
    def of(cls, logits: Tensor, dtype: str, times: float = 1.0) -> "Values":
        """Those of a lane in this dtype; off by so many times what two forwards differ by."""
        logits = logits.detach().double()
        return cls(logits, times * BOUNDS[dtype] * float(logits.abs().max()))

    @property
    def logsumexp(self) -> float:
        return float(self.logits.logsumexp(0))

    def logit(self, ids: Sequence[int]) -> float | None:
        """Of several labels the logarithm of the sum of what each would get."""
        return float(self.logits[list(ids)].logsumexp(0)) if ids else None

    def rank(self, ids: Sequence[int]) -> OneOf | None:
        """How many tokens are above the best of them; those that are about as high may be."""
        if not ids:
            return None
        best = float(self.logits[list(ids)].max())
        low, high = (int((self.logits > best + off).sum()) for off in (2 * self.off, -2 * self.off))
        # The best itself is not above itself.
        return OneOf(frozenset(range(low, max(low + 1, high))))

    @property
    def first(self) -> list[int]:
        """The first choice, and those that could be it."""
        return (self.logits >= self.logits.max() - 2 * self.off).nonzero().flatten().tolist()

    @property
    def margin(self) -> float:
        """How far the first choice is above the second."""
        top = self.logits.topk(2).values
        return float(top[0] - top[1])

    def near(self, value: float | None, times: float = 1.0) -> Near | None:
        """A number that is off by as much as logits, or so many times."""
        return None if value is None else Near(value, times * self.off)

    def prob(self, ids: Sequence[int]) -> float | None:
        logit = self.logit(ids)
        return None if logit is None else exp(logit - self.logsumexp)

    def difference(self, pair: Pair) -> float | None:
        """Label minus base label; None where one of them is not there."""
        label, base = self.logit(pair.label_ids), self.logit(pair.base_label_ids)
        return None if label is None or base is None else label - base


def kl(reference: Values, run: Values) -> float:
    """KL(reference ‖ run), in nats."""
    log_p, log_q = reference.logits.log_softmax(0), run.logits.log_softmax(0)
    return float((log_p.exp() * (log_p - log_q)).sum())


def total_variation(reference: Values, run: Values) -> float:
    """½ Σ |reference - run|."""
    return float((reference.logits.softmax(0) - run.logits.softmax(0)).abs().sum() / 2)


def read_of(pair: Pair, read: int | str) -> int:
    """The token of the base that is read."""
    return located((read,), pair.spans.get("base", {}))[0]


def source_read(pair: Pair, run: str, read: int | str) -> int | None:
    """The token of another run that answers to it: the last to the last, an index to itself, a span to its
    own; None where that run has none."""
    if run not in pair.tokens:
        return None
    last = len(pair.tokens[run]) - 1
    if isinstance(read, str):
        has_span = read.partition(".")[0] in pair.spans[run]
        return located((read,), pair.spans[run])[0] if has_span else None
    if read == len(pair.tokens["base"]) - 1:
        return last
    return read if read <= last else None


def clean_values(network: Network, pair: Pair, run: str, read: int | str) -> Values | None:
    """The unintervened run, at the token that answers to `read`."""
    at = read_of(pair, read) if run == "base" else source_read(pair, run, read)
    return None if at is None else Values.of(network.clean(pair.tokens[run])[0][at], network.dtype)


def results(network: Network, jobs: Sequence[Job], played: Mapping[int, Cell] = {}) -> list[dict[str, Any]]:
    """The rows of `results` of some jobs of a model; `played` is what is done by hand in some of them, where
    that is not what the cell says."""
    cells = [(job.pair, played.get(number, job.cell)) for number, job in enumerate(jobs)]
    found = zip(jobs, intervened(network, cells), strict=True)
    return [_result(job, network, logits) for job, logits in found]


def _result(job: Job, network: Network, logits: Tensor) -> dict[str, Any]:
    """The row of a job with these logits [T, V]."""
    pair, read = job.pair, job.cell["read"]
    # A probe is the end of a search, which ends where the changes are small.
    times = 10.0 if job.axes.get("subspace") == "probe" else 1.0
    run = Values.of(logits[read_of(pair, read)], network.dtype, times)
    clean = {name: clean_values(network, pair, name, read) for name in ("base", "source")}
    base, source = clean["base"], clean["source"]
    assert base is not None
    return {
        **_identity(job, network),
        **_labels(run, pair),
        **_choice(run, base, pair, network),
        "kl_base": run.near(kl(base, run), 4),
        "kl_source": None if source is None else run.near(kl(source, run), 4),
        "tv_base": run.near(total_variation(base, run)),
        "generated": None,
        **_clean_columns("base", base, pair),
        **_clean_columns("source", source, pair),
        "estimate": None,
        "tier": tier(job, run, base),
    }


def _identity(job: Job, network: Network) -> dict[str, Any]:
    pair = job.pair
    spots = {
        side: sorted(
            spot
            for units in (*(of for _, of in job.cell.get("runs", ())), job.cell["units"])
            for unit in units
            if unit[place] is not None
            for spot in located(unit[place]["position"], pair.spans.get(_prompt(unit, place, pair), {}))
        )
        for side, place in (("base", "place"), ("source", "origin"))
    }
    base = sorted(set(spots["base"]))
    words = [_word(network, token) for token in pair.tokens["base"]]
    return {
        "study": job.study,
        "cell_id": job.cell_id,
        "pair_id": job.pair_id,
        "job_id": job.job_id,
        "model": job.lane.model,
        "dtype": job.lane.dtype,
        "revision": job.lane.revision,
        "block": job.block,
        **{name: job.axes.get(name) for name in AXES},
        **{name: pair.row.get(name) for name in PAIR_COLUMNS},
        "base_position": base[0] if len(base) == 1 else None,
        "base_positions": base,
        "source_positions": sorted(set(spots["source"])),
        "base_tokens": words,
    }


def _prompt(unit: Mapping[str, Any], place: str, pair: Pair) -> str:
    return unit["run"] if place == "origin" and unit["run"] in pair.tokens else "base"


def _word(network: Network, token: int) -> str | None:
    return network.words[token] if token < len(network.words) else None


def _labels(run: Values, pair: Pair) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, ids in (("label", pair.label_ids), ("base_label", pair.base_label_ids)):
        logit = run.logit(ids)
        found |= {
            f"{name}_id": ids[0] if ids else None,
            f"{name}_logit": run.near(logit),
            f"{name}_logprob": run.near(None if logit is None else logit - run.logsumexp, 2),
            f"{name}_rank": run.rank(ids),
        }
    prob, base_prob = run.prob(pair.label_ids), run.prob(pair.base_label_ids)
    return {
        **found,
        "logit_diff": run.near(run.difference(pair), 2),
        "prob": run.near(prob),
        "base_prob": run.near(base_prob),
    }


def _choice(run: Values, base: Values, pair: Pair, network: Network) -> dict[str, Any]:
    first, before = run.first, base.first
    difference = run.difference(pair)
    is_same = set(pair.label_ids) == set(pair.base_label_ids)
    bound = BOUNDS[network.dtype]
    share = run.margin / abs(float(run.logits.max()))
    times = 2 if network.dtype == "float32" else 4
    is_clear = not bound / times < share < bound * times
    is_tie = OneOf(frozenset({share <= bound} if is_clear else {True, False}))
    flips = {difference is not None and difference + off > 0 for off in (-2 * run.off, 2 * run.off)}
    return {
        "pred_id": OneOf(frozenset(first)),
        "pred_token": OneOf(frozenset(_word(network, one) for one in first)),
        "pred_logprob": run.near(float(run.logits.max()) - run.logsumexp, 2),
        "margin": run.near(run.margin, 2),
        "near_tie": is_tie,
        "iia": OneOf(frozenset(float(one in pair.label_ids) for one in first)) if pair.label_ids else None,
        "flip": None if difference is None or is_same else OneOf(frozenset(map(float, flips))),
        "changed": OneOf(frozenset(float(one != other) for one in first for other in before)),
    }


def _clean_columns(name: str, run: Values | None, pair: Pair) -> dict[str, Any]:
    """The columns of an unintervened run beside a result."""
    if run is None:
        columns = ("label_logit", "base_label_logit", "logit_diff", "prob", "base_prob", "pred_id")
        return {f"{name}_run_{column}": None for column in columns}
    return {
        f"{name}_run_label_logit": run.near(run.logit(pair.label_ids)),
        f"{name}_run_base_label_logit": run.near(run.logit(pair.base_label_ids)),
        f"{name}_run_logit_diff": run.near(run.difference(pair), 2),
        f"{name}_run_prob": run.near(run.prob(pair.label_ids)),
        f"{name}_run_base_prob": run.near(run.prob(pair.base_label_ids)),
        f"{name}_run_pred_id": OneOf(frozenset(run.first)),
    }


def tier(job: Job, run: Values, base: Values) -> str:
    """How the row was made: nothing ran where nothing could differ; all of the model where it is a built-in
    one, or a rectangle is changed. What a classifier says is of no one token, and its rows all run."""
    if any("coordinates" in unit["place"] for unit in job.cell["units"]) or "outputs" in job.lane.model:
        return "hooked"
    if float((run.logits - base.logits).abs().max()) <= 1e-12:
        return "unchanged"
    return "hooked" if job.lane.model.startswith("zoo:") else "resumed"


def both_labels(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of `scores` of a row of `results`."""
    values = ("label_logit", "label_logprob", "label_rank", "prob")
    dropped = {*values, *(f"base_{value}" for value in values)}
    others = {name: value for name, value in row.items() if name not in dropped}
    return [
        {
            **others,
            "role": role,
            "token": row[role],
            "logit": row[f"{role}_logit"],
            "logprob": row[f"{role}_logprob"],
            "rank": row[f"{role}_rank"],
            "prob": row[prob],
        }
        for role, prob in (("label", "prob"), ("base_label", "base_prob"))
        if row[f"{role}_id"] is not None
    ]


def runs(network: Network, job: Job) -> list[dict[str, Any]]:
    """The rows of `runs` of a job's pair at what the job reads: of every run that has such a token."""
    found = ((run, clean_values(network, job.pair, run, job.cell["read"])) for run in job.pair.tokens)
    return [_run_row(job, network, run, values) for run, values in found if values is not None]


def _run_row(job: Job, network: Network, run: str, values: Values) -> dict[str, Any]:
    pair = job.pair
    label, base = values.logit(pair.label_ids), values.logit(pair.base_label_ids)
    total = values.logsumexp
    return {
        "study": job.study,
        "model": job.lane.model,
        "dtype": job.lane.dtype,
        "revision": job.lane.revision,
        "pair_id": job.pair_id,
        "run": run,
        "read": str(job.cell["read"]),
        "label_logit": values.near(label),
        "base_label_logit": values.near(base),
        "logsumexp": values.near(total),
        "label_rank": values.rank(pair.label_ids),
        "base_label_rank": values.rank(pair.base_label_ids),
        "pred_id": OneOf(frozenset(values.first)),
        "pred_logit": values.near(float(values.logits.max())),
        "margin": values.near(values.margin, 2),
        "label_logprob": values.near(None if label is None else label - total, 2),
        "base_label_logprob": values.near(None if base is None else base - total, 2),
        "logit_diff": values.near(values.difference(pair), 2),
        "pred_token": OneOf(frozenset(_word(network, one) for one in values.first)),
    }


def own_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The users' columns of some pairs, as given."""
    return [name for name in dict.fromkeys(key for row in rows for key in row) if name not in PAIR_COLUMNS]


def torch_dtype(name: str) -> torch.dtype:
    """In which a lane is run by hand: exactly, but for half precision, whose rounding is part of it."""
    return torch.float64 if name == "float32" else getattr(torch, name)
