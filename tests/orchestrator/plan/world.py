"""What the tests of planning share: studies in words, a scorer without a model, and parts without rows."""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.plan.baseline_runs import COLUMNS, Columns
from orchestrator.plan.planner import Draft, Planner
from orchestrator.plan.tables import Lane, Plan, decode_plan, encode_plan
from orchestrator.store import Manifest, State
from orchestrator.store.commit import Commit
from orchestrator.store.lock import Holder
from studies import Study, load_study
from workers.metrics import METRIC_FAMILIES
from workers.vocabulary import CleanRun, ModelSpec

CAPITALS = {"Spain": "Madrid", "Italy": "Rome", "France": "Paris", "Peru": "Lima"}
"""What the tiny model's tokeniser has words for."""

Row = Mapping[str, Any]


def row(base: str, source: str, **others: Any) -> dict[str, Any]:
    """A pair of countries, five tokens each; the label is the source's capital."""
    return {
        "base": f"The capital of {base} is",
        "source": f"The capital of {source} is",
        "base_label": f" {CAPITALS[base]}",
        "source_label": f" {CAPITALS[source]}",
        **others,
    }


def study(folder: Path, rows: Sequence[Row], sweep: str, **head: Any) -> Study:
    """A study of the model in `folder` over `rows`; `sweep` as in a file, `head` its other keys."""
    keys = {"study": "small", "model": str(folder), "pairs": list(rows), **head}
    return load_study("\n".join([*(f"{key}: {json.dumps(keys[key])}" for key in keys), f"sweep: {sweep}"]))


class Oracle:
    """A scorer without a model: its values are a hash of what is asked, its answers those that it is told."""

    def __init__(self, answers: Mapping[Any, int] | None = None) -> None:
        self.asked: list[CleanRun] = []
        self._answers = answers or {}

    def score(self, lane: Lane, requests: Sequence[CleanRun]) -> Columns:
        self.asked += requests
        columns: Columns = {
            name: np.array(
                [_digest(lane.identity, request, name) for request in requests],
                np.float32 if code == "f" else np.int32,
            )
            for name, code in COLUMNS
        }
        answers = [self._answers.get(request.tokens, 0) for request in requests]
        return {**columns, "pred_id": np.array(answers, np.int32)}


def _digest(identity: str, request: CleanRun, name: str) -> int:
    return hashlib.sha256(repr((identity, request, name)).encode()).digest()[0]


def draft(made: Study, earlier: Plan | None = None, state: State | None = None, scorer: Any = None) -> Draft:
    """Plan as the driver does."""
    return Planner(made, say=lambda line: None).draft(scorer or Oracle(), earlier, state)


def planned(made: Study, earlier: Plan | None = None, state: State | None = None) -> Plan:
    """A complete plan, as a reader gets it back from its files."""
    found = draft(made, earlier, state)
    assert found.exact and found.complete
    return decode_plan(encode_plan(found.plan))


def lane_of(folder: Path) -> Lane:
    """The model in a folder as a lane."""
    from workers.model.references import resolve

    facts = resolve(ModelSpec(ref=str(folder)))
    spec = ModelSpec(ref=str(folder), revision=facts.revision)
    return Lane(lane=0, spec=spec, identity='{"model":"tiny"}', num_parameters=facts.num_parameters)


def opened() -> State:
    """A study's state before its first plan."""
    state = State()
    _apply(state, kind="open", holder=Holder.this_process())
    return state


def commit_part(
    state: State,
    plan: Plan,
    tile: int,
    k_lo: int,
    k_hi: int,
    families: Sequence[str] = METRIC_FAMILIES,
    **changes: Any,
) -> Manifest:
    """Commit cells of a tile as done."""
    content: dict[str, Any] = {
        "path": f"data/1/lane/{uuid.uuid4().hex}.parquet",
        "size_bytes": 1,
        "sha256": "0" * 64,
        "families": tuple(families),
        "lane": "lane",
        "tile": tile,
        "k_lo": k_lo,
        "k_hi": k_hi,
        "rows": (k_hi - k_lo) * len(plan.tiles[tile].pairs),
        "failed": 0,
        "tiers": {},
        "timings": {},
        "worker": "worker",
        "host": "here",
    }
    part = Manifest(**{**content, **changes})
    assert state.accepts(part), "some of its jobs are done already"
    _apply(state, kind="add", add=(part,))
    return part


def _apply(state: State, **content: Any) -> None:
    state.apply(Commit(seq=state.seq + 1, epoch=1, nonce=uuid.uuid4().hex, time_s=0.0, **content))
