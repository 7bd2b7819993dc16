"""A toy stage, as a package might bring one: counts the letters of each pair's prompts, a file a pair."""

import json
import time
from collections.abc import Mapping

import pyarrow as pa

from orchestrator.plan.tables import Plan
from orchestrator.stages.bench import WorkerBench
from orchestrator.stages.contract import Desk, Hands, RunScene, Stage, StageReport
from orchestrator.stages.units import Piece, Taken, WholeUnit
from orchestrator.store import StudyStore
from orchestrator.store.storage import LocalStorage

NAME = "letters"
SECONDS = 0.05
"""Each pair takes so long at least, so that there is something to kill."""


def count_letters(text: str) -> int:
    """Letters of a prompt."""
    return sum(one.isalpha() for one in text)


class LetterHands:
    """Counts the letters of one pair."""

    def __init__(self, bench: WorkerBench) -> None:
        self._storage = LocalStorage(bench.root)
        self._pairs = bench.plan.tables["pairs"].to_pylist()

    def run(self, taken: Taken, target_s: float, worker: int) -> StageReport:
        """Count, and keep the numbers where nobody has by now."""
        assert isinstance(taken, Piece)
        time.sleep(SECONDS)
        row = self._pairs[int(taken.name)]
        counts = {run: count_letters(row[run]) for run in ("base", "source")}
        self._storage.create(_path(taken.name), json.dumps(counts).encode())
        return StageReport(1, SECONDS)


class LetterStage(Stage):
    """Letters of each given pair."""

    name = NAME
    folders = (NAME,)

    def open(self, scene: RunScene) -> Desk | None:
        """Pairs without a file are left."""
        kept = LocalStorage(scene.store.root)
        names = map(str, range(scene.planned.plan.tables["pairs"].num_rows))
        left = [WholeUnit(NAME, name) for name in names if kept.read(_path(name)) is None]
        return Desk(scene, left) if left else None

    def hands(self, bench: WorkerBench) -> Hands:
        """One for all pairs."""
        return LetterHands(bench)

    def tables(self, plan: Plan, store: StudyStore) -> Mapping[str, pa.Table]:
        """A row for each pair that is counted."""
        storage, rows = LocalStorage(store.root), []
        for one in range(plan.tables["pairs"].num_rows):
            if (data := storage.read(_path(str(one)))) is not None:
                rows.append({"given": one, **json.loads(data)})
        schema = pa.schema([(name, pa.int64()) for name in ("given", "base", "source")])
        return {NAME: pa.Table.from_pylist(rows, schema)}


def _path(name: str) -> str:
    return f"{NAME}/{name}.json"


STAGE = LetterStage()
