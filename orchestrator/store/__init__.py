"""The study store: a folder that any process reads, workers write parts into, and one driver commits to."""

__all__ = [
    "METRIC_COLUMNS",
    "CommitLog",
    "Driver",
    "Holder",
    "IntervalSet",
    "Manifest",
    "PlanRef",
    "State",
    "StudyStore",
    "WrittenPart",
    "decode_part",
    "encode_part",
    "part_columns",
]

from orchestrator.store.commit import PlanRef
from orchestrator.store.done import IntervalSet
from orchestrator.store.lock import Holder
from orchestrator.store.log import CommitLog
from orchestrator.store.manifest import Manifest
from orchestrator.store.parts import METRIC_COLUMNS, decode_part, encode_part, part_columns
from orchestrator.store.state import State
from orchestrator.store.study import Driver, StudyStore, WrittenPart
