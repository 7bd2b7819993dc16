"""What questions cost at scale: ``python -m benchmarks.store read``, with ``--write`` into the docs.

- ``count(*)`` over 200 studies (4.3 million rows), each time in a fresh process. Target: 5 CPU s, 300 MB.
- A heat map's numbers over 10 million rows of one study, all of them read. Target: 1 s.
- GROUP BY over the same rows beside DuckDB alone on the same Parquet, in turns, warm: the joins of rows with
  the plan's tables, which are what the question needs, are written by hand there. Target: twice its time.
- The same with ``--memory 500MB``, in a process of its own: the most that it held.

Studies lie in memory (/dev/shm) where there is such a place: reading is measured, not the disk.
"""

__all__ = ["main"]

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.report import arguments, figure, num_rounds, spread, table, write
from benchmarks.rows import FEW, MANY, make_rows, make_studies, merge_all
from benchmarks.store import MEMORY
from orchestrator.plots.data import read_grid
from orchestrator.query.connection import ask, connect
from orchestrator.query.query_limits import QueryLimits, QueryTimer
from studies.language.results import Plot

NUM_STUDIES = 200
ROUNDS = 7
COUNT = "SELECT count(*) FROM results"
MAP = Plot(kind="heatmap", x="base_position", y="layer", facet="site", fill="iia")
LIMIT = "500MB"
_P = "JOIN p ON p.pair = r.pair"
_C = f"{_P} JOIN c ON c.class = p.class AND c.cell = r.cell"
_Q = f"{_C} LEFT JOIN q ON q.lane = p.lane AND q.pair = r.pair AND q.read = c.read"
_LAUNCH = """
import os, sys, time
began = time.perf_counter()
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(process, 0)
print(used.ru_utime + used.ru_stime, time.perf_counter() - began, used.ru_maxrss / 1024, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Linux counts what the parent held as a child's peak: so the parent is a process that holds nothing."""
GROUPS: Mapping[str, tuple[str, str]] = {
    "accuracy by layer": (
        "SELECT layer, avg(iia), count(*) FROM results GROUP BY ALL",
        f"SELECT c.layer, avg((r.pred_id = p.label_id)::DOUBLE), count(*) FROM r {_C} WHERE r.error IS NULL"
        " GROUP BY ALL",
    ),
    "accuracy by place": (
        "SELECT site, layer, base_position, avg(iia), count(*) FROM results GROUP BY ALL",
        "SELECT c.site, c.layer, c.base_positions[1], avg((r.pred_id = p.label_id)::DOUBLE), count(*)"
        f" FROM r {_C} WHERE r.error IS NULL GROUP BY ALL",
    ),
    "divergence by label": (
        "SELECT label, avg(logit_diff), max(kl_base) FROM results GROUP BY ALL",
        "SELECT p.label, avg((r.label_logit - r.base_label_logit)::DOUBLE), max(r.kl_base)"
        f" FROM r {_C} WHERE r.error IS NULL GROUP BY ALL",
    ),
    "recovered by layer": (
        "SELECT layer, sum(logit_diff - base_run_logit_diff)"
        " / sum(source_run_logit_diff - base_run_logit_diff) FROM results GROUP BY ALL",
        "SELECT c.layer, sum((r.label_logit - r.base_label_logit)::DOUBLE - q.base)"
        f" / sum(q.source - q.base) FROM r {_Q} WHERE r.error IS NULL GROUP BY ALL",
    ),
    "mean of each pair at each layer": (
        "SELECT pair_id, layer, avg(prob) FROM results GROUP BY ALL",
        "SELECT p.pair_id, c.layer, avg(exp((r.label_logit - r.logsumexp)::DOUBLE))"
        f" FROM r {_C} WHERE r.error IS NULL GROUP BY ALL",
    ),
}
"""Questions, as they are put to the views and as they are put to DuckDB alone."""


def main(given: Sequence[str]) -> None:
    """Make the studies, measure, print tables, and write them where that is asked for."""
    options = arguments(__doc__ or "", rounds=ROUNDS).parse_args(given)
    place = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="swapyard-bench-", dir=place) as scratch:
        found = measured(Path(scratch), options)
    text = shown(found)
    print(text)
    if options.write:
        write("store", {"reading": found}, text, lambda path: draw(found, path))


def measured(scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All numbers: seconds of each round, and the most memory."""
    rounds = num_rounds(options)
    shape, number = (FEW, 5) if options.quick else (MANY, NUM_STUDIES)
    make_studies(scratch / "many", number)
    made = time.perf_counter()
    make_rows(scratch / "one" / "big", shape)
    merge_all(scratch / "one" / "big")
    print(f"made in {time.perf_counter() - made:.0f} s", flush=True)
    counts = [_query(scratch / "many", COUNT) for _ in range(rounds)]
    big = scratch / "one" / "big"
    limited = _query(scratch / "one", GROUPS["mean of each pair at each layer"][0], "--memory", LIMIT)
    with connect([big]) as connection:
        maps = _timed(lambda: read_grid(connection, MAP), rounds + 1)[1:]
    return {
        "num_studies": number,
        "count": counts,
        "map_s": maps,
        "groups": {name: _beside(big, ours, theirs, rounds) for name, (ours, theirs) in GROUPS.items()},
        "limited": limited,
    }


def _query(store: Path, sql: str, *more: str) -> dict[str, float]:
    """What ``swapyard query`` takes, from the start of its process."""
    command = [sys.executable, "-m", "orchestrator.cli", "query", sql, "--store", str(store), *more]
    done = subprocess.run([sys.executable, "-S", "-c", _LAUNCH, *command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"swapyard query {sql!r} ended with {done.returncode}: {done.stderr}")
    cpu_s, wall_s, peak_mb = map(float, done.stderr.splitlines()[-1].split())
    return {"cpu_s": cpu_s, "wall_s": wall_s, "peak_mb": peak_mb}


def _timed(act: Callable[[], object], rounds: int) -> list[float]:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return times


def _beside(root: Path, ours: str, theirs: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of the same question here and in DuckDB alone, in turns; the first of each is not counted."""
    connection, relation = ask([root], ours, leave_out=None, limits=QueryLimits(), watch=QueryTimer())
    found: dict[str, list[float]] = {"ours_s": [], "theirs_s": []}
    with connection, _alone(root) as alone:
        _same(relation.fetchall(), alone.execute(theirs).fetchall())
        for _ in range(rounds):
            found["ours_s"] += _timed(relation.fetchall, 1)
            found["theirs_s"] += _timed(lambda: alone.execute(theirs).fetchall(), 1)
    return found


def _same(ours: Sequence[tuple[Any, ...]], theirs: Sequence[tuple[Any, ...]]) -> None:
    """Both must say the same: of sums in another order, all but the last digits."""

    def rounded(rows: Sequence[tuple[Any, ...]]) -> list[str]:
        return sorted(str([f"{v:.6e}" if isinstance(v, float) else v for v in row]) for row in rows)

    if rounded(ours) != rounded(theirs):
        raise SystemExit("the views and DuckDB alone do not say the same")


def _alone(root: Path) -> duckdb.DuckDBPyConnection:
    """A connection with the tables that one would make of a study's Parquet by hand."""
    connection = duckdb.connect()
    (plan,) = (path for path in (root / "plan").iterdir() if path.is_dir())
    parts = [str(path) for path in (root / "data").rglob("*.parquet")]
    connection.execute(f"CREATE VIEW r AS FROM read_parquet({parts!r})")
    connection.execute(
        f"CREATE TABLE p AS SELECT i.lane, i.pair, i.class, i.pair_id, i.label_ids[1] AS label_id, g.label"
        f" FROM '{plan}/inputs.parquet' i"
        f" JOIN (SELECT *, row_number() OVER () - 1 AS given FROM '{plan}/pairs.parquet') g USING (given)"
        " WHERE i.kept"
    )
    connection.execute(
        f"CREATE TABLE c AS SELECT g.class, g.cell, p.site, p.layer, c.base_positions, c.read"
        f" FROM '{plan}/grid.parquet' g JOIN '{plan}/points.parquet' p ON p._point = g.point"
        f" JOIN '{plan}/cells.parquet' c ON c.cell = g.cell"
    )
    sides = ", ".join(
        f"any_value(label_logit - base_label_logit) FILTER (run = '{run}')::DOUBLE AS {run}"
        for run in ("base", "source")
    )
    connection.execute(
        f"CREATE TABLE q AS SELECT lane, pair, read, {sides} FROM '{plan}/runs.parquet' GROUP BY ALL"
    )
    return connection


def shown(found: Mapping[str, Any]) -> str:
    """The tables."""
    counts, limited = found["count"], found["limited"]
    costs = table(
        ("", "CPU s", "wall s", "peak MB"),
        [
            (
                f"count(*) over {found['num_studies']} studies, process included",
                *(spread([one[name] for one in counts]) for name in ("cpu_s", "wall_s")),
                f"{max(one['peak_mb'] for one in counts):.0f}",
            ),
            ("heat map of 10 million rows", "", spread(found["map_s"]), ""),
            (
                f"largest GROUP BY of them with --memory {LIMIT}",
                f"{limited['cpu_s']:.2f}",
                f"{limited['wall_s']:.2f}",
                f"{limited['peak_mb']:.0f}",
            ),
        ],
    )
    groups = table(
        ("GROUP BY over 10 million rows", "swapyard, s", "DuckDB alone, s", "ratio"),
        [
            (name, spread(one["ours_s"]), spread(one["theirs_s"]), spread(_ratios(one)))
            for name, one in found["groups"].items()
        ],
    )
    return f"{costs}\n\n{groups}"


def _ratios(one: Mapping[str, Sequence[float]]) -> list[float]:
    return [ours / theirs for ours, theirs in zip(one["ours_s"], one["theirs_s"], strict=True)]


def draw(found: Mapping[str, Any], path: Path) -> None:
    """The ratio of each question."""
    picture = figure(8, 2.6)
    axes = picture.subplots()
    names = list(found["groups"])
    axes.barh(names, [statistics.median(_ratios(found["groups"][name])) for name in names])
    axes.axvline(1, color="black", linewidth=0.6)
    axes.set_xlabel("time beside DuckDB alone")
    axes.invert_yaxis()
    picture.savefig(path)
