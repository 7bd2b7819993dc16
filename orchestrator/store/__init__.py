"""Study store: a folder that any process reads, workers write parts into, and one driver commits to."""

__all__ = [
    "ADDED_COLUMNS",
    "COLLECTED",
    "MOST_FILES",
    "UNWRITTEN",
    "CommitLog",
    "Driver",
    "Holder",
    "IntervalSet",
    "Leftovers",
    "Manifest",
    "Merge",
    "Merged",
    "MergedFile",
    "PlanRef",
    "RemovedFiles",
    "State",
    "StoredFile",
    "StudyStore",
    "WrittenPart",
    "decode_part",
    "encode_part",
    "explained",
    "leftovers",
    "part_columns",
]

from orchestrator.store.commit import PlanRef
from orchestrator.store.gc import Leftovers, RemovedFiles, leftovers
from orchestrator.store.intervals import IntervalSet
from orchestrator.store.lock import Holder
from orchestrator.store.log import CommitLog
from orchestrator.store.manifest import Manifest, MergedFile, StoredFile
from orchestrator.store.merge import MOST_FILES, Merge, Merged
from orchestrator.store.notes import UNWRITTEN
from orchestrator.store.parts import (
    ADDED_COLUMNS,
    COLLECTED,
    decode_part,
    encode_part,
    part_columns,
)
from orchestrator.store.state import State
from orchestrator.store.storage import explained
from orchestrator.store.study import Driver, StudyStore, WrittenPart
