"""Studies of as many rows as one likes, which no model ran: what `benchmarks.reading` reads."""

__all__ = ["FEW", "MANY", "make_rows", "make_studies", "merge_all"]

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.plan import Shape
from benchmarks.store import full_plan
from orchestrator.plan.tables import Plan, Tile, encode_plan
from orchestrator.store import UNWRITTEN, Driver, Manifest, StudyStore, encode_part

_SITES = "{sites: [mlp_output, attention_input, block_output], layers: all, positions: all}"
MANY = Shape(_SITES, 4_630)
"""2,160 cells × 4,630 pairs: 10,000,800 rows."""
FEW = Shape(_SITES, 10)
"""21,600 rows."""
_CELLS_A_PART = 720
_SMALL_VOCABULARY = 2_000


def make_rows(folder: Path, shape: Shape, *, vocabulary: int = _SMALL_VOCABULARY) -> None:
    """Make the study in `folder`, all of its jobs done: a part for each tile and some of its cells."""
    plan = full_plan(shape, vocabulary)
    draw = np.random.default_rng(0)
    store = StudyStore(folder)
    with store.open_driver() as driver:
        driver.write_plan(encode_plan(plan))
        for tile in plan.tiles.values():
            driver.commit(list(_parts(store, driver, plan, tile, draw)))


def make_studies(folder: Path, number: int, shape: Shape = FEW) -> None:
    """Make that many studies in `folder`, each of its own name and identity."""
    for one in range(number):
        make_rows(folder / f"study-{one:03}", shape)


def merge_all(folder: Path) -> None:
    """Merge the study's files, as a driver does in the background, and clear what they were merged of."""
    store = StudyStore(folder)
    with store.open_driver() as driver:
        while (merge := driver.next_merge(most_files=1)) is not None:
            merged = store.merge(driver.epoch, merge)
            assert merged.file is not None
            driver.commit_merged(merged.file)
        driver.collect_garbage(grace_s=0.0)
    shutil.rmtree(folder / "logs", ignore_errors=True)


def _parts(
    store: StudyStore, driver: Driver, plan: Plan, tile: Tile, draw: np.random.Generator
) -> Iterator[Manifest]:
    cells = plan.cellsets[tile.cellset]
    for first in range(0, len(cells), _CELLS_A_PART):
        chosen = cells[first : first + _CELLS_A_PART]
        data = encode_part(_columns(plan, tile, chosen, draw), ("logits", "kl"))
        rows = len(chosen) * len(tile.pairs)
        draft = Manifest(
            path=store.fresh_path(driver.epoch, str(tile.lane)),
            **UNWRITTEN,
            families=("logits", "kl"),
            lane=str(tile.lane),
            tile=tile.tile,
            k_lo=first,
            k_hi=first + len(chosen),
            rows=rows,
            failed=0,
            tiers={"resumed": rows},
            timings={"total_s": 2.0, "model_s": 1.5, "capture_s": 0.25},
            worker="worker",
            host="here",
        )
        yield store.write_rows(draft, data, study=driver.state.study, seq=driver.state.seq)


def _columns(plan: Plan, tile: Tile, cells: np.ndarray, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Numbers as a model's are: close to each other within a cell, and half of them right."""
    count = len(cells) * len(tile.pairs)
    labels = np.array([plan.pairs[pair].label_ids[0] for pair in tile.pairs], np.int32)
    base = np.array([plan.pairs[pair].base_label_ids[0] for pair in tile.pairs], np.int32)
    right = draw.random(count) < 0.5

    def floats(mean: float) -> np.ndarray:
        return (mean + draw.standard_normal(count)).astype(np.float32)

    return {
        "cell": np.repeat(cells, len(tile.pairs)).astype(np.uint32),
        "pair": np.tile(np.array(tile.pairs, np.uint32), len(cells)),
        "error": np.ma.masked_all(count, object),
        "attempt": np.zeros(count, np.uint8),
        "tier": np.full(count, "resumed", object),
        "label_logit": floats(10.0),
        "base_label_logit": floats(9.0),
        "logsumexp": floats(14.0),
        "pred_logit": floats(12.0),
        "margin": np.abs(floats(1.0)),
        "label_rank": draw.integers(0, 50, count, np.int32),
        "base_label_rank": draw.integers(0, 50, count, np.int32),
        "pred_id": np.where(right, np.tile(labels, len(cells)), np.tile(base, len(cells))).astype(np.int32),
        "kl_base": np.abs(floats(0.5)),
        "kl_source": np.abs(floats(0.5)),
        "tv_base": draw.random(count, np.float32),
    }
