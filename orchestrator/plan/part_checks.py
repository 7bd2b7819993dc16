"""Checks of committed parts against the plan: tile, lane, cells, and the number of their rows.

A plan knows every tile that its study ever had, so that a part of none of them is not of this study, or of
another copy of it.
"""

__all__ = ["agree", "misfit", "misfits", "strange_rows"]

import io
from collections.abc import Iterable

import numpy as np

from orchestrator.plan.tables import Plan
from orchestrator.store import Manifest, State
from workers.libraries.pyarrow import open_parquet, read_all
from workers.metrics import ESTIMATE


def misfits(plan: Plan, state: State) -> dict[str, str]:
    """The files whose parts do not fit the plan, each with what is wrong; goes on from the file's name."""
    found: dict[str, str] = {}
    for path, part in state.live.items():
        why = misfit(plan, part)
        if why is not None:
            found.setdefault(state.file_of(path).path, f"does not fit the plan: {why}")
    return found


def misfit(plan: Plan, part: Manifest) -> str | None:
    """Fault of a part that does not fit the plan, in words; None where it fits."""
    tile = plan.tile_sizes.get(part.tile)
    if tile is None:
        return f"there is no tile {part.tile}"
    if part.lane != str(tile.lane):
        return f"tile {part.tile} is of lane {tile.lane}, not {part.lane}"
    if (ESTIMATE in part.families) != tile.estimates:
        return f"tile {part.tile} is not one of {'estimates' if ESTIMATE in part.families else 'jobs'}"
    if part.k_hi > tile.num_cells:
        return f"tile {part.tile} has {tile.num_cells:,} cells, and none up to {part.k_hi:,}"
    num_pairs = tile.num_pairs
    if part.is_retry:
        first, last = part.k_lo * num_pairs, part.k_hi * num_pairs
        is_within = first <= part.jobs[0][0] and part.jobs[-1][1] <= last
        return None if is_within else f"its jobs are not those of cells [{part.k_lo}, {part.k_hi})"
    num_jobs = (part.k_hi - part.k_lo) * num_pairs
    if part.rows != num_jobs:
        return f"{part.k_hi - part.k_lo:,} cells with {num_pairs} pairs each are not {part.rows:,} rows"
    return None


def strange_rows(plan: Plan, parts: Iterable[Manifest], data: bytes) -> str | None:
    """Fault of a file whose cells and pairs are not those of its parts; None where they are.

    The file can be read, and its parts fit the plan.
    """
    table = read_all(open_parquet(io.BytesIO(data)), ("cell", "pair"))
    expected = [_keys_of(plan, part) for part in parts]
    found = _keys(table["cell"].to_numpy(), table["pair"].to_numpy())
    if np.array_equal(np.sort(found), np.sort(np.concatenate([*expected, np.empty(0, np.uint64)]))):
        return None
    return "its rows are of other cells or pairs than the plan says"


def agree(first: Plan, second: Plan) -> bool:
    """Whether all numbers of the first plan mean the same in the second: then this one went on from it.

    Of two copies of a study that were planned anew, each gave the same numbers to other things.
    """
    # Which loads all that planning needs, where no query does.
    from orchestrator.plan.previous_plan import numbers_of

    lanes = [plan.head["lane_numbers"].items() for plan in (first, second)]
    if not lanes[0] <= lanes[1]:
        return False
    for what in ("cell", "pair"):
        one, other = ({(number, key) for key, number in numbers_of(plan, what)} for plan in (first, second))
        if not one <= other:
            return False
    return all(
        (there := second.tiles.get(number)) is not None
        and (tile.lane, tile.pairs, tile.estimates) == (there.lane, there.pairs, there.estimates)
        and np.array_equal(first.cellsets[tile.cellset], second.cellsets[there.cellset])
        for number, tile in first.tiles.items()
    )


def _keys_of(plan: Plan, part: Manifest) -> np.ndarray:
    """The jobs of a part, one number each."""
    tile = plan.tiles[part.tile]
    if part.is_retry:
        jobs = np.concatenate([np.arange(lo, hi) for lo, hi in part.jobs])
    else:
        jobs = np.arange(part.k_lo * len(tile.pairs), part.k_hi * len(tile.pairs))
    ks, js = np.divmod(jobs, len(tile.pairs))
    return _keys(plan.cellsets[tile.cellset][ks], np.array(tile.pairs)[js])


def _keys(cells: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    keys: np.ndarray = cells.astype(np.uint64) << np.uint64(32) | pairs.astype(np.uint64)
    return keys
