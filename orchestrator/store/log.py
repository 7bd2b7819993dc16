"""Log of a study: numbered commits, each created once and never changed, and checkpoints of their sum.

A driver may only create the number after the last one it knows. So whoever made commit n had read all
commits below n, and a driver learns that it lost the study from the very number that it fails to get.

Each commit names the digest of the one before, so that the log is one chain. Where it is broken, it goes on
at the next ``rebuild`` commit, which says all that counts; where there is none, it cannot be read.
"""

__all__ = ["CHECKPOINTS", "CommitLog", "LogCheckpoint", "checkpoint_name", "is_due"]

import contextlib
import hashlib
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from typing import Literal, Self

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestrator.faults import around
from orchestrator.store.commit import REMEDY, Commit, PlanRef, Snapshot, commit_name, is_checked
from orchestrator.store.lock import Holder
from orchestrator.store.manifest import Digest, Manifest, MergedFile, strict
from orchestrator.store.state import State
from orchestrator.store.storage import Storage
from workers.digests import digest_of
from workers.errors import HeldError, StoreError

CHECKPOINTS = "checkpoints"
EVERY = 1000
"""Fewest commits between two checkpoints."""
_SHARE = 20
"""A checkpoint comes after a twentieth of the log at least, for it is as long as the study's state."""
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class LogCheckpoint:
    """Checkpoint of a log: a study's state, and the commit that it was after, so that readers begin there.

    ``checkpoints/<sequence>.bin`` is a SHA-256 and the compressed JSON that it is of. It names the digest of
    its commit, and with that, as commits are a chain, the whole log before. One that is damaged, of another
    log, or missing costs time and nothing else. Whoever examines a log reads none.
    """

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
        """State that the checkpoint was made of."""
        return State.of(self.held, seq=self.seq, epoch=self.epoch, holder=self.holder, time_s=self.time_s)

    def to_bytes(self) -> bytes:
        """The file's content."""
        data = zlib.compress(_CHECKPOINT.dump_json(self, by_alias=True, exclude_defaults=True), 1)
        return hashlib.sha256(data).digest() + data

    @classmethod
    def from_bytes(cls, data: bytes) -> "LogCheckpoint | None":
        """Checkpoint that `to_bytes` wrote; None of anything else."""
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


_CHECKPOINT = TypeAdapter(LogCheckpoint)


class CommitLog:
    """The commits of one study, read as they come and appended one by one, from one thread."""

    def __init__(self, storage: Storage, *, checkpoints: bool = True) -> None:
        """Without `checkpoints` every commit is read, as who examines a log must."""
        self._storage = storage
        self._checkpoints = checkpoints
        self._digest: str | None = None
        """Of the last commit's bytes."""
        self._is_checked = False
        """Whether the last commit has a checksum: then the next one must name it."""
        self._kept = 0
        """The newest checkpoint that is known."""
        self.state = State()

    def refresh(self) -> State:
        """Read the commits that came since the last time, and give the state, which grows by them.

        Raises:
            StoreError: a commit is damaged, of another log, or missing below one that is there.
        """
        newest = self._begin() if self.state.seq == 0 else 0
        while True:
            try:
                if self._read_next():
                    continue
                if self.state.seq < newest:
                    raise StoreError(
                        f"{commit_name(self.state.seq + 1)} is missing, though later commits are there;"
                        f" {REMEDY}"
                    )
            except StoreError:
                if not self._jump():
                    raise
                continue
            return self.state

    def read_until(self, is_end: Callable[[Commit], bool]) -> State | None:
        """The state before the first commit that `is_end` accepts, of a log that nothing was read of; None
        where it comes to none.

        Raises:
            StoreError: a commit before it is damaged, or of another log.
        """
        while (data := self._storage.read(commit_name(self.state.seq + 1))) is not None:
            if is_end(Commit.from_json(data, self.state.seq + 1)):
                return self.state
            self._read_next()
        return None

    def numbers(self) -> list[int]:
        """The numbers of all commits that there are, in order; some that came meanwhile may lack."""
        return _numbers(self._storage.list("commits"))

    def _begin(self) -> int:
        """Start from a checkpoint, if there is a good one; the number of the newest commit, or 0."""
        numbers = self.numbers()
        newest = numbers[-1] if numbers else 0
        # Of a log with a hole no checkpoint is used: then what is lost would not be noticed.
        if self._checkpoints and numbers and len(numbers) == newest:
            kept = _numbers(self._storage.list(CHECKPOINTS))
            self._kept = kept[-1] if kept else 0
            for seq in reversed(kept[-_MOST_TRIED:]):
                if self._starts_from(seq):
                    break
        return newest

    def _starts_from(self, seq: int) -> bool:
        """Take the state of a checkpoint; False where it is damaged, or not of this log."""
        data, last = self._storage.read(checkpoint_name(seq)), self._storage.read(commit_name(seq))
        if data is None or last is None or not is_checked(last):
            return False
        found = LogCheckpoint.from_bytes(data)
        if found is None or (found.seq, found.commit) != (seq, digest_of(last)):
            return False
        self.state, self._digest, self._is_checked = found.state(), found.commit, True
        return True

    def _read_next(self) -> bool:
        """Go on by the next commit, if it is there."""
        seq = self.state.seq + 1
        data = self._storage.read(commit_name(seq))
        if data is None:
            return False
        commit = Commit.from_json(data, seq)
        if commit.kind != "rebuild" and commit.prev != (self._digest if self._is_linked(commit) else None):
            raise StoreError(
                f"{commit_name(seq)} does not follow {commit_name(seq - 1)}: one of them is damaged, or of"
                f" another copy of the study; {REMEDY}"
            )
        self._follow(commit, data)
        return True

    def _is_linked(self, commit: Commit) -> bool:
        """Whether a commit must name the one before: the first, and those of earlier versions, do not."""
        return commit.seq > 1 and (self._is_checked or commit.prev is not None)

    def _follow(self, commit: Commit, data: bytes) -> None:
        if commit.kind == "rebuild":
            self.state = State.rebuilt(commit)
        else:
            self.state.apply(commit)
        self._digest, self._is_checked = digest_of(data), is_checked(data)

    def _jump(self) -> bool:
        """Go on at the newest ``rebuild`` commit beyond where the log is broken, if there is one."""
        for seq in reversed([number for number in self.numbers() if number > self.state.seq]):
            data = self._storage.read(commit_name(seq))
            with contextlib.suppress(StoreError):
                if data is not None and (commit := Commit.from_json(data, seq)).kind == "rebuild":
                    self._follow(commit, data)
                    return True
        return False

    def open_epoch(self, holder: Holder) -> int:
        """Append an ``open`` commit and give its number: from here on, no earlier driver can commit."""
        while True:
            seq = self.refresh().seq + 1
            commit = Commit(
                seq=seq,
                epoch=seq,
                nonce=_nonce(),
                kind="open",
                time_s=time.time(),
                holder=holder,
                prev=self._digest,
            )
            if self._create(commit):
                return seq

    def rebuild(self, holder: Holder, seq: int, snapshot: Snapshot) -> int:
        """Create commit `seq`, which opens the study with what `snapshot` says, whatever was before.

        Raises:
            HeldError: somebody else took the number.
            StorageFullError, StoreError: it was not written, or nobody knows; trying again is safe.
        """
        commit = Commit(
            seq=seq,
            epoch=seq,
            nonce=_nonce(),
            kind="rebuild",
            time_s=time.time(),
            holder=holder,
            rebuilt=snapshot,
        )
        if not self._create(commit):
            raise HeldError(
                f"somebody else wrote {commit_name(seq)}; look who runs this study, and repair again"
            )
        return seq

    def append(
        self,
        epoch: int,
        kind: Literal["plan", "add", "compact", "adopt", "drop"],
        *,
        plan: PlanRef | None = None,
        add: tuple[Manifest, ...] = (),
        merged: tuple[MergedFile, ...] = (),
        drop: tuple[str, ...] = (),
    ) -> int:
        """Append a commit of the driver that opened `epoch`, and give its number.

        Raises:
            HeldError: another driver has opened the study since.
            StorageFullError, StoreError: it was not written, or nobody knows; appending again is safe.
        """
        while True:
            self.refuse_fenced(epoch)
            commit = Commit(
                seq=self.state.seq + 1,
                epoch=epoch,
                nonce=_nonce(),
                kind=kind,
                time_s=time.time(),
                plan=plan,
                add=add,
                merged=merged,
                drop=drop,
                prev=self._digest,
            )
            if self._create(commit):
                self._keep_checkpoint()
                return commit.seq
            self.refresh()

    def _create(self, commit: Commit) -> bool:
        """Write `commit` under its number; False where that number is another commit's."""
        with around(f"commit.{commit.kind}"):
            made = self._written(commit) or self._is_own(commit)
        if made:
            self._follow(commit, commit.to_json())
        return made

    def _keep_checkpoint(self) -> None:
        """Write a checkpoint, now and then; it is a help for readers, and that it cannot be is no trouble."""
        if not is_due(self._kept, self.state.seq) or self._digest is None:
            return
        before, self._kept = self._kept, self.state.seq
        with contextlib.suppress(StoreError):
            self._storage.create(
                checkpoint_name(self._kept), LogCheckpoint.of(self.state, self._digest).to_bytes()
            )
            for seq in _numbers(self._storage.list(CHECKPOINTS)):
                if seq < before:
                    self._storage.remove(checkpoint_name(seq))

    def _written(self, commit: Commit) -> bool:
        """Whether the storage says that this commit is what it wrote under the number."""
        name, data = commit_name(commit.seq), commit.to_json()
        try:
            return self._storage.create(name, data)
        except StoreError:
            if not self._is_own(commit):
                raise
        # It was written, and then something failed: once more, so that it is durable as well.
        return self._storage.create(name, data)

    def _is_own(self, commit: Commit) -> bool:
        """Whether the number holds this very commit: a write whose answer was lost is told by its nonce."""
        there = self._read(commit.seq)
        return there is not None and there.nonce == commit.nonce

    def refuse_fenced(self, epoch: int) -> None:
        """Accept the driver of `epoch`, if it is the last that opened the study.

        Raises:
            HeldError: another driver has opened it since.
        """
        if self.state.epoch != epoch:
            raise HeldError(
                f"this driver (epoch {epoch}) was fenced: {self.state.holder} took the study over "
                f"(epoch {self.state.epoch}); all that was committed is kept, and this run ends"
            )

    def _read(self, seq: int) -> Commit | None:
        data = self._storage.read(commit_name(seq))
        return None if data is None else Commit.from_json(data, seq)


def _numbers(names: Sequence[str]) -> list[int]:
    """The numbers that names of commits or checkpoints have, in order."""
    stems = (name[name.rindex("/") + 1 :].partition(".")[0] for name in names)
    return sorted(int(stem) for stem in stems if stem.isdecimal())


_MOST_TRIED = 3
"""Checkpoints, before all commits are read."""


def _nonce() -> str:
    return uuid.uuid4().hex
