"""The log of a study: numbered commits, each created once and never changed.

A driver may only create the number after the last one it knows. So whoever made commit n had read all
commits below n, and a driver learns that it lost the study from the very number that it fails to get.
"""

__all__ = ["CommitLog"]

import time
import uuid
from pathlib import PurePosixPath
from typing import Literal

from orchestrator.faults import around
from orchestrator.store.commit import Commit, PlanRef, commit_name
from orchestrator.store.lock import Holder
from orchestrator.store.manifest import Manifest, MergedFile
from orchestrator.store.state import State
from orchestrator.store.storage import Storage
from workers.errors import HeldError, StoreError


class CommitLog:
    """The commits of one study, read as they come and appended one by one, from one thread."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.state = State()

    def refresh(self) -> State:
        """Read the commits that came since the last time, and give the state, which grows by them.

        Raises:
            StoreError: a commit is damaged, or missing below one that is there.
        """
        newest = self._newest() if self.state.seq == 0 else 0
        while (commit := self._read(self.state.seq + 1)) is not None:
            self.state.apply(commit)
        if self.state.seq < newest:
            raise StoreError(
                f"{commit_name(self.state.seq + 1)} is missing, though later commits are there; "
                "restore it from a copy"
            )
        return self.state

    def open_epoch(self, holder: Holder) -> int:
        """Append an ``open`` commit and give its number: from here on, no earlier driver can commit."""
        while True:
            seq = self.refresh().seq + 1
            if self._create(
                Commit(seq=seq, epoch=seq, nonce=_nonce(), kind="open", time_s=time.time(), holder=holder)
            ):
                return seq

    def append(
        self,
        epoch: int,
        kind: Literal["plan", "add", "compact"],
        *,
        plan: PlanRef | None = None,
        add: tuple[Manifest, ...] = (),
        merged: tuple[MergedFile, ...] = (),
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
            )
            if self._create(commit):
                return commit.seq
            self.refresh()

    def _create(self, commit: Commit) -> bool:
        """Write `commit` under its number; False where that number is another commit's."""
        with around(f"commit.{commit.kind}"):
            made = self._written(commit) or self._is_own(commit)
        if made:
            self.state.apply(commit)
        return made

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

    def _newest(self) -> int:
        """The highest number there is, or 0; a listing may miss numbers that came while it was made."""
        stems = [PurePosixPath(name).stem for name in self._storage.list("commits")]
        return max((int(stem) for stem in stems if stem.isdecimal()), default=0)


def _nonce() -> str:
    return uuid.uuid4().hex
