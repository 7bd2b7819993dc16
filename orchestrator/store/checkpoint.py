"""Checkpoints of a log: all that a study held after a commit, so that readers need not begin with the first.

``checkpoints/<sequence>.bin`` is a SHA-256 and the compressed JSON that it is of. It names the digest of its
commit, and with that, as commits are a chain, the whole log before. One that is damaged, of another log, or
missing costs time and nothing else. Whoever examines a log reads none.
"""

__all__ = ["CHECKPOINTS", "Checkpoint", "checkpoint_name", "is_due"]

import hashlib
import zlib
from typing import Self

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestrator.store.commit import Snapshot
from orchestrator.store.lock import Holder
from orchestrator.store.manifest import Digest, strict
from orchestrator.store.state import State

CHECKPOINTS = "checkpoints"
EVERY = 1000
"""Commits between two checkpoints, at least."""
_SHARE = 20
"""And at least a twentieth of the log, as a checkpoint is as long as what the study holds."""
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class Checkpoint:
    """A state, and the commit that it was after."""

    seq: int
    commit: Digest
    """The SHA-256 of the commit's bytes."""
    epoch: int
    holder: Holder | None
    time_s: float
    held: Snapshot

    @classmethod
    def of(cls, state: State, commit: str) -> Self:
        """The checkpoint of `state`, whose last commit has this digest."""
        return cls(
            seq=state.seq,
            commit=commit,
            epoch=state.epoch,
            holder=state.holder,
            time_s=state.time_s,
            held=state.snapshot(),
        )

    def state(self) -> State:
        """What it was made of."""
        return State.of(self.held, seq=self.seq, epoch=self.epoch, holder=self.holder, time_s=self.time_s)

    def to_bytes(self) -> bytes:
        """The file's content."""
        data = zlib.compress(_CHECKPOINT.dump_json(self, by_alias=True, exclude_defaults=True), 1)
        return hashlib.sha256(data).digest() + data

    @classmethod
    def from_bytes(cls, data: bytes) -> "Checkpoint | None":
        """What `to_bytes` made; None of anything else."""
        digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            return None
        try:
            return _CHECKPOINT.validate_json(zlib.decompress(content))
        except (zlib.error, ValidationError):
            # Whole, and of a newer version.
            return None


def checkpoint_name(seq: int) -> str:
    """The name of the checkpoint after commit `seq`."""
    return f"{CHECKPOINTS}/{seq:010d}.bin"


def is_due(before: int, seq: int) -> bool:
    """Whether a checkpoint after commit `seq` is worth its while, the last being that after `before`."""
    return seq - before >= max(EVERY, seq // _SHARE)


_CHECKPOINT = TypeAdapter(Checkpoint)
