"""What the tests of planning share: a study in words, a scorer without a model, and parts without rows."""

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.plan.clean import COLUMNS, Columns
from orchestrator.plan.planner import Draft, Planner
from orchestrator.plan.tables import Lane, Plan, decode_plan, encode_plan
from orchestrator.store import Manifest, State
from orchestrator.store.commit import Commit, PlanRef
from orchestrator.store.lock import Holder
from studies import Study, load_study
from workers.vocabulary import METRIC_FAMILIES, CleanRun

CAPITALS = {"Spain": "Madrid", "Italy": "Rome", "France": "Paris", "Peru": "Lima"}
"""What the tiny model's tokeniser has words for."""


def row(base: str, source: str, **others: Any) -> dict[str, Any]:
    """A pair of countries; five tokens each."""
    return {
        "base": f"The capital of {base} is",
        "source": f"The capital of {source} is",
        "base_label": f" {CAPITALS[base]}",
        "source_label": f" {CAPITALS[source]}",
        **others,
    }


def study(folder: Path, rows: Sequence[dict[str, Any]], sweep: str, head: str = "") -> Study:
    """A study of the model in `folder` over `rows`; `sweep` and `head` as in a file."""
    text = f"study: small\nmodel: {folder}\n{head}\n"
    made = load_study(f"{text}pairs: [{{base: a}}]\nsweep: {sweep}\n")
    return made.model_copy(update={"pairs": tuple(rows)})


class Oracle:
    """Deterministic values without a model; it answers right but for the prompts that it is told to miss."""

    def __init__(self, misses: Iterable[tuple[int, ...]] = ()) -> None:
        self.asked: list[CleanRun] = []
        self._misses = set(misses)
        self.answers: dict[tuple[int, ...], int] = {}

    def score(self, lane: Lane, requests: Sequence[CleanRun]) -> Columns:
        self.asked += requests
        columns: Columns = {}
        for number, (name, code) in enumerate(COLUMNS):
            values = [_digest(lane.identity, request, number) for request in requests]
            columns[name] = np.array(values, np.float32 if code == "f" else np.int32)
        columns["pred_id"] = np.array([self._answer(request.tokens) for request in requests], np.int32)
        return columns

    def _answer(self, tokens: tuple[int, ...]) -> int:
        return 0 if tokens in self._misses else self.answers.get(tokens, 0)


def _digest(identity: str, request: CleanRun, number: int) -> int:
    return hashlib.sha256(repr((identity, request, number)).encode()).digest()[0]


def draft(made: Study, earlier: Plan | None = None, state: State | None = None, scorer: Any = None) -> Draft:
    """Plan as the driver does."""
    return Planner(made, say=lambda line: None).draft(scorer or Oracle(), earlier, state)


def planned(made: Study, earlier: Plan | None = None, state: State | None = None) -> Plan:
    """A complete plan as a reader gets it back from its files."""
    found = draft(made, earlier, state)
    assert found.exact and found.complete
    return decode_plan(encode_plan(found.plan))


def opened() -> State:
    """A study's state before its first plan."""
    state = State()
    holder = Holder.this_process()
    state.apply(Commit(seq=1, epoch=1, nonce=uuid.uuid4().hex, kind="open", time_s=0.0, holder=holder))
    return state


def commit_plan(state: State) -> None:
    """A plan whose files nobody reads."""
    plan = PlanRef(id=uuid.uuid4().hex, files={})
    state.apply(
        Commit(seq=state.seq + 1, epoch=1, nonce=uuid.uuid4().hex, kind="plan", time_s=0.0, plan=plan)
    )


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
    state.apply(
        Commit(seq=state.seq + 1, epoch=1, nonce=uuid.uuid4().hex, kind="add", time_s=0.0, add=(part,))
    )
    return part
