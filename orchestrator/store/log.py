"""The log of a study: numbered commits, each created once and never changed.

A driver may only create the number after the last one it knows. So whoever made commit n had read all
commits below n, and a driver learns that it lost the study from the very number that it fails to get.
"""

__all__ = ["CommitLog"]

import time
import uuid
from pathlib import PurePosixPath
from typing import Literal

from orchestrator.store.commit import Commit, PlanRef, commit_name
from orchestrator.store.lock import Holder
from orchestrator.store.manifest import Manifest
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
        remove: tuple[str, ...] = (),
    ) -> int:
        """Append a commit of the driver that opened `epoch`, and give its number.

        Raises:
            HeldError: another driver has opened the study since.
            StorageFullError, StoreError: it could not be written; appending again is safe.
        """
        while True:
            self._refuse_fenced(epoch)
            commit = Commit(
                seq=self.state.seq + 1,
                epoch=epoch,
                nonce=_nonce(),
                kind=kind,
                time_s=time.time(),
                plan=plan,
                add=add,
                remove=remove,
            )
            if self._create(commit):
                return commit.seq
            self.refresh()

    def _create(self, commit: Commit) -> bool:
        """Write `commit` under its number; False where that number is another commit's."""
        name = commit_name(commit.seq)
        if not self._storage.create(name, commit.to_json()):
            # A write whose answer was lost may be our own: the nonce tells.
            there = self._read(commit.seq)
            if there is None or there.nonce != commit.nonce:
                return False
        self.state.apply(commit)
        return True

    def _refuse_fenced(self, epoch: int) -> None:
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
