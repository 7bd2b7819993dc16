"""A study whose parts are written by hand, next to a plain model of what its views must show."""

import json
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from small_store import make_study

from orchestrator.plan.tables import Plan, encode_plan, read_plan
from orchestrator.query.connection import connect
from orchestrator.store import (
    UNWRITTEN,
    Driver,
    Manifest,
    MergedFile,
    StudyStore,
    encode_part,
    part_columns,
)
from workers.metrics import raw_metrics

BOTH = ("logits", "kl")
SHOWN = {"logits": "label_logit", "kl": "kl_base"}
"""One column of each metric family, whose values tell rows apart."""

Job = tuple[int, int]
"""Tile, and ``k * P + j``."""
Value = float | str
"""What a job gave, or the type of the error that it failed of."""


@dataclass
class History:
    """A study on disk, all that was done to it, and what is to be seen there."""

    store: StudyStore
    plan: Plan
    driver: Driver
    model: dict[Job, dict[str, Value]] = field(default_factory=dict)
    parts: list[Manifest] = field(default_factory=list)
    num_values: int = 0

    @classmethod
    def begin(cls, folder: Path) -> "History":
        """A planned study of two tiles with 30 cells and 4 pairs each, of two models; nothing is done."""
        template = StudyStore(make_study(folder / "template", dtypes=("float32", "bfloat16")))
        made = template.latest_plan()
        assert made is not None
        plan = read_plan(template, made)
        store = StudyStore(folder / "study")
        driver = store.open_driver()
        driver.write_plan({**encode_plan(plan), "study.yaml": b"study: study"})
        return cls(store, plan, driver)

    def num_pairs(self, tile: int) -> int:
        return len(self.plan.tiles[tile].pairs)

    def add(
        self,
        tile: int,
        k_lo: int,
        k_hi: int,
        families: Sequence[str] = BOTH,
        failing: Mapping[int, str] | None = None,
    ) -> Manifest:
        """Commit a part; `failing` are its jobs that fail, and of what."""
        num = self.num_pairs(tile)
        jobs = range(k_lo * num, k_hi * num)
        place = {"tile": tile, "k_lo": k_lo, "k_hi": k_hi, "families": tuple(families)}
        return self._commit(jobs, failing or {}, place)

    def retry(
        self, part: Manifest, jobs: Collection[int], failing: Mapping[int, str] | None = None
    ) -> Manifest:
        """Commit a retry of some jobs of `part`; `failing` are those that fail again."""
        cells = [job // self.num_pairs(part.tile) for job in jobs]
        place = {
            "tile": part.tile,
            "k_lo": min(cells),
            "k_hi": max(cells) + 1,
            "families": part.families,
            "attempt": 1,
            "replaces": part.path,
            "jobs": tuple((job, job + 1) for job in sorted(jobs)),
        }
        return self._commit(sorted(jobs), failing or {}, place)

    def merge(self, most_files: int = 1) -> MergedFile | None:
        """Merge once, if a merge is due above so many files."""
        merge = self.driver.next_merge(most_files)
        if merge is None:
            return None
        made = self.store.merge(self.driver.epoch, merge).file
        assert made is not None
        self.driver.commit_merged(made)
        return made

    def reopen(self) -> None:
        """Let the driver go, and open the study as the next one would."""
        self.driver.close()
        self.driver = self.store.open_driver()

    def failed_jobs(self, part: Manifest) -> dict[int, str]:
        """The jobs of a part that are shown as failed, and of what."""
        family = part.families[0]
        num = self.num_pairs(part.tile)
        mine = ((job, self.model[part.tile, job][family]) for job in range(part.k_lo * num, part.k_hi * num))
        return {job: value for job, value in mine if isinstance(value, str)}

    def expected(self) -> dict[tuple[int, int], tuple[Any, ...]]:
        """By cell and pair: the shown columns of a result, or the error of a failure."""
        found = {}
        for (tile, job), values in self.model.items():
            errors = [value for value in values.values() if isinstance(value, str)]
            columns = tuple(values.get(family) for family in BOTH)
            found[self._names(tile, job)] = (errors[0],) if errors else columns
        return found

    def seen(self) -> dict[tuple[int, int], tuple[Any, ...]]:
        """The same as the views of a new reader show it."""
        with connect([self.store.root]) as connection:
            return shown(connection)

    def _commit(self, jobs: Sequence[int], failing: Mapping[int, str], place: Mapping[str, Any]) -> Manifest:
        tile, families = self.plan.tiles[place["tile"]], place["families"]
        rows = list(self._rows(tile.tile, jobs, failing, families, place.get("attempt", 0)))
        columns = {name: [row[name] for row in rows] for name in part_columns(families)}
        draft = Manifest(
            path=self.store.fresh_path(self.driver.epoch, str(tile.lane)),
            **UNWRITTEN,
            **place,
            lane=str(tile.lane),
            rows=len(rows),
            failed=sum(row["error"] is not None for row in rows),
            tiers={"hooked": len(rows)},
            timings={},
            worker="1",
            host=socket.gethostname(),
        )
        state = self.driver.state
        assert state.plan is not None
        data = encode_part(columns, families)
        part = self.store.write_rows(draft, data, study=state.study, seq=state.seq, plan=state.plan.id)
        assert self.driver.commit([part]) == ()
        self.parts.append(part)
        return part

    def _rows(
        self,
        tile: int,
        jobs: Sequence[int],
        failing: Mapping[int, str],
        families: Sequence[str],
        attempt: int,
    ) -> Iterator[dict[str, Any]]:
        for job in jobs:
            error = failing.get(job)
            cell, pair = self._names(tile, job)
            values = {name: self._value() for name in raw_metrics(families)}
            done = self.model.setdefault((tile, job), {})
            done.update({family: error or values[SHOWN[family]] for family in families})
            yield {
                "cell": cell,
                "pair": pair,
                "error": json.dumps({"type": error, "message": "no luck"}) if error else None,
                "attempt": attempt,
                "tier": "hooked",
                **{name: None if error else value for name, value in values.items()},
            }

    def _value(self) -> int:
        """Another one each time, which a float32 holds exactly."""
        self.num_values += 1
        return self.num_values

    def _names(self, tile: int, job: int) -> tuple[int, int]:
        """The numbers of the cell and the pair of a job, in the store."""
        found = self.plan.tiles[tile]
        k, j = divmod(job, len(found.pairs))
        return int(self.plan.cellsets[found.cellset][k]), found.pairs[j]


_NUMBERS = """
    JOIN _0_cells c USING (cell_id)
    JOIN (SELECT DISTINCT pair, pair_id FROM _0_inputs) p USING (pair_id)
"""


def shown(connection: Any) -> dict[tuple[int, int], tuple[Any, ...]]:
    """What the views of an open reader show, in the form of `History.expected`; each job is there once."""
    values = ", ".join(SHOWN[family] for family in BOTH)
    results, failures = (
        connection.sql(f"SELECT c.cell, p.pair, {columns} FROM {view} {_NUMBERS}").fetchall()
        for view, columns in (("results", values), ("failures", "error_type"))
    )
    found = {row[:2]: row[2:] for row in (*results, *failures)}
    assert len(found) == len(results) + len(failures), "a job is shown twice"
    return found
