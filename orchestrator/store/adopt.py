"""Parts that no commit names, though they can be read, and the choice of those that may be added."""

__all__ = ["Unnamed", "adoptable", "check_rows", "part_names", "unnamed_parts"]

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from orchestrator.store.manifest import PART, Manifest
from orchestrator.store.notes import ExaminedFile, examined
from orchestrator.store.state import State
from orchestrator.store.storage import Storage


@dataclass(frozen=True, slots=True)
class Unnamed:
    """File of rows that no commit names, with its note."""

    name: str
    found: ExaminedFile
    epoch: int
    """Of the driver under which it was written."""


def part_names(storage: Storage) -> list[str]:
    """The names of all files of rows, in order."""
    return [name for name in storage.list("data") if PART.fullmatch(name)]


def epoch_of(name: str) -> int:
    """Epoch in the name of a file of rows, or of a log."""
    return int(name.split("/")[1])


def unnamed_parts(storage: Storage, state: State, *, epoch: int) -> Iterator[Unnamed]:
    """The files of rows of epochs before `epoch` that no commit names; every byte of them is read.

    Raises:
        StoreError: one cannot be read.
    """
    for name in part_names(storage):
        if epoch_of(name) < epoch and name not in state.files and name not in state.replaced:
            yield Unnamed(name, examined(storage.read(name) or b""), epoch_of(name))


def adoptable(storage: Storage, state: State, *, epoch: int) -> tuple[Manifest, ...]:
    """The parts that a killed driver left, in order, as far as the study's own rules accept them together.

    Each is whole to the bit, of this study and of a plan that was committed, holds what it says, and does
    jobs that nobody has done.

    Raises:
        StoreError: one cannot be read.
    """
    accepted: list[Manifest] = []
    mine = [one for one in unnamed_parts(storage, state, epoch=epoch) if is_of(one, state)]
    # A retry comes after the part whose rows it replaces.
    for one in sorted(mine, key=lambda one: (one.epoch, one.found.note.seq if one.found.note else 0)):
        part = one.found.note.part if one.found.note is not None else None
        if part is not None and state.accepts(part, accepted):
            data = storage.read(one.name)
            if data is not None and check_rows(data, [part]) is None:
                accepted.append(part)
    return tuple(accepted)


def is_of(one: Unnamed, state: State) -> bool:
    """Whether a file is of this study and of a plan of its own, and lies where it was written."""
    note = one.found.note
    if note is None or note.study != state.study or note.seq > state.seq:
        return False
    file = note.part or note.merged
    return (
        file is not None and file.path == one.name and (note.merged is not None or note.plan in state.plans)
    )


def check_rows(data: bytes, parts: Iterable[Manifest]) -> str | None:
    """Difference between a file's rows and those that its parts should have; None where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from workers.libraries.pyarrow import open_parquet, read_all

    parts = list(parts)
    try:
        file = open_parquet(io.BytesIO(data), checked=True)
        table = read_all(file, ["cell", "pair", "error", "attempt", "tier"])
    except (pa.ArrowException, OSError) as error:
        return f"it cannot be read ({error})"
    tiers: Counter[str] = Counter()
    for part in parts:
        tiers.update(part.tiers)
    has_tiers = all(part.tiers for part in parts)
    found_tiers = {
        row["values"]: row["counts"] for row in pc.value_counts(table["tier"].cast(pa.string())).to_pylist()
    }
    said = {
        "rows": (table.num_rows, sum(part.rows for part in parts)),
        "failed rows": (table.num_rows - table["error"].null_count, sum(part.failed for part in parts)),
        "attempts": (pc.unique(table["attempt"]).to_pylist(), sorted({part.attempt for part in parts})),
        "jobs": (
            table.group_by(["cell", "pair"], use_threads=False).aggregate([]).num_rows,
            table.num_rows,
        ),
    }
    if has_tiers:
        said["tiers"] = (found_tiers, dict(tiers))
    if len(parts) == 1 and not parts[0].is_retry:
        said["cells"] = (pc.count_distinct(table["cell"]).as_py(), parts[0].k_hi - parts[0].k_lo)
    for what, (found, expected) in said.items():
        if found != expected:
            return f"its {what} are {found} where its commit says {expected}"
    return None
