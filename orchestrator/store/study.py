"""Study folder, as workers, readers and the one driver use it.

Anyone may read at any time, and a worker needs no more than the folder and its driver's epoch to write a
part. Only the driver commits, and nothing counts before it is committed.
"""

__all__ = ["Driver", "StudyStore", "WrittenPart"]

import contextlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import orchestrator.store.guard as guard
from orchestrator.store.adopt import adoptable
from orchestrator.store.commit import Commit, FileRef, PlanRef, commit_name
from orchestrator.store.gc import GRACE_S, RemovedFiles, collect_garbage
from orchestrator.store.identity import Identity, read_identity
from orchestrator.store.lock import Holder, StudyLock
from orchestrator.store.log import CommitLog
from orchestrator.store.manifest import Manifest, MergedFile, StoredFile, WrittenBytes
from orchestrator.store.merge import MOST_FILES, Merge, Merged, merge_files, next_merge
from orchestrator.store.notes import UNWRITTEN, FileNote, with_note
from orchestrator.store.parts import REMEDY, decode_part
from orchestrator.store.plans import INDEX, encode_index
from orchestrator.store.state import State
from orchestrator.store.storage import LocalStorage, Storage, gone
from workers.digests import digest_of
from workers.errors import HeldError, StoreError

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_ADOPTED = 500
"""Parts, in one commit."""


class WrittenPart(NamedTuple):
    """Path of a part, with its size and hash as a manifest has them."""

    path: str
    size_bytes: int
    sha256: str


class StudyStore:
    """Store of the study in `root`. Making one touches nothing; it may be sent to other processes."""

    def __init__(self, root: Path, storage: Storage | None = None) -> None:
        """`storage` keeps the study's bytes; without one they lie in `root`, where the lock always does."""
        self.root = root
        self._storage = storage or LocalStorage(root)

    def exists(self) -> bool:
        """Whether the folder holds a study, also one that is damaged."""
        return guard.is_study(self._storage)

    def probe(self) -> None:
        """Try that the folder's file system can keep a study.

        Raises:
            StoreError: it cannot.
        """
        if isinstance(self._storage, LocalStorage):
            self._storage.probe()

    def open_reader(self, *, checkpoints: bool = True) -> CommitLog:
        """The study's log, read to its end; ``refresh()`` reads on. Without `checkpoints`, each commit.

        Raises:
            StoreError: there is no study, it is damaged or lost in part, or a newer swapyard made it.
        """
        guard.check_format(self._storage, self.root)
        # Listed first: what a file knows of the log is in the log by then.
        names = guard.telling_names(self._storage)
        log = CommitLog(self._storage, checkpoints=checkpoints)
        guard.refuse_lost_log(self._storage, log.refresh(), self.root, names)
        return log

    def open_driver(self, *, take_over: bool = False) -> "Driver":
        """Become the study's driver, and make the study where there is none.

        `take_over` goes on without the lock where another driver holds it, or where the file system has
        none. A living driver's lock cannot be taken from it, but from here on it cannot commit: its next
        commit raises `HeldError`.

        Raises:
            HeldError: another driver holds the study, and `take_over` is not given.
            StoreError: the folder cannot keep a study, holds something else, or a newer swapyard made it.
        """
        holder = Holder.this_process()
        lock = StudyLock(self.root)
        try:
            lock.acquire(holder)
        except StoreError:
            if not take_over:
                raise
        try:
            guard.refuse_without_format(self._storage, self.root)
            if not self._storage.exists("format.json"):
                self.probe()
                guard.make_format(self._storage, self.root)
            guard.check_format(self._storage, self.root)
            log = CommitLog(self._storage)
            guard.refuse_lost_log(self._storage, log.refresh(), self.root)
            return Driver(self._storage, log, lock, log.open_epoch(holder))
        except BaseException:
            lock.release()
            raise

    def state(self) -> State:
        """State of the study now."""
        return self.open_reader().state

    def latest_plan(self) -> PlanRef | None:
        """The plan that the study follows, or None before the first."""
        return self.state().plan

    def read_plan_file(self, plan: PlanRef, name: str) -> bytes:
        """A plan's file, checked against what was committed.

        Raises:
            StoreError: the plan has no such file, the file is damaged, or the folder was moved away.
        """
        if name not in plan.files:
            raise StoreError(f"the plan {plan.id} has no file {name!r}; it has {sorted(plan.files)}")
        data = self._storage.read(plan.path(name))
        if data is None and not self.root.exists():
            raise gone(self.root)
        if data is None or digest_of(data) != plan.files[name].sha256:
            raise StoreError(
                f"{self.locate(plan.path(name))} is missing or damaged; restore it from a copy, or run the"
                " study again, which makes the same plan again if it can"
            )
        return data

    def write_part(self, epoch: int, lane: str, data: bytes) -> WrittenPart:
        """Write a part's bytes under a fresh name, durably; for workers, in any process.

        Raises:
            StorageFullError, StoreError: it could not be written; nothing of it stays behind.
        """
        path = self.fresh_path(epoch, lane)
        return WrittenPart(path, **self._written(path, data))

    def fresh_path(self, epoch: int, lane: str) -> str:
        """A name for a part that nobody used before."""
        return f"data/{epoch}/{lane}/{uuid.uuid4().hex}.parquet"

    def write_rows(
        self, draft: Manifest, data: bytes, *, study: str, seq: int = 0, plan: str | None = None
    ) -> Manifest:
        """Write a part that says itself what it holds, durably; for workers, in any process.

        Args:
            draft: what is said of it, but for its size and hash (`UNWRITTEN`).
            data: its bytes, as `encode_part` makes them.
            study: what `origin` gives.
            seq: how many commits there were when the work was handed out.
            plan: the plan whose work it is; without one, no later driver adopts a part that is not committed.

        Returns:
            The manifest to commit.

        Raises:
            StorageFullError, StoreError: it could not be written; nothing of it stays behind.
        """
        note = FileNote(study=study, seq=seq, rest=UNWRITTEN["sha256"], plan=plan, part=draft)
        return replace(draft, **self._written(draft.path, with_note(data, note)))

    def origin(self) -> str:
        """Nonce of the study's first commit, which its log and its files of rows name.

        Raises:
            StoreError: there is no study, or it is damaged.
        """
        data = self._storage.read(commit_name(1))
        if data is not None:
            with contextlib.suppress(StoreError):
                return Commit.from_json(data, 1).nonce
        # It was lost, and the log was rebuilt.
        return self.state().study

    def given_identity(self) -> Identity | None:
        """The identity and the name that the study was given; None where it has those it began with.

        Raises:
            StoreError: they are damaged.
        """
        return read_identity(self._storage, self.root)

    def identity(self) -> str:
        """Identity of the study, whatever its folder is called; a backup has it, too.

        Raises:
            StoreError: there is no study, or it is damaged.
        """
        given = self.given_identity()
        return self.origin() if given is None else given.study

    def _written(self, path: str, data: bytes) -> WrittenBytes:
        """Write a file of rows, and give its size and hash."""
        self._storage.put_fresh(path, data)
        return {"size_bytes": len(data), "sha256": digest_of(data)}

    def read_part(self, part: Manifest | StoredFile, columns: Sequence[str] | None = None) -> "pa.Table":
        """The rows of a part or of any other file, or some of their columns, checked against the commit.

        Raises:
            StoreError: the file is missing or damaged.
        """
        data = self._storage.read(part.path)
        if data is None:
            raise StoreError(f"{self.locate(part.path)} was committed and is missing; {REMEDY}")
        return decode_part(data, part, columns)

    def merge(self, epoch: int, merge: Merge, go_on: Callable[[], bool] = lambda: True) -> Merged:
        """Write the rows of several files as one, durably; in any thread. A commit must follow.

        Every file is checked; a damaged one is left out, and named. `go_on` is asked now and then whether
        the merge is still wanted.

        Raises:
            StorageFullError, StoreError: it could not be written; nothing of it stays behind.
        """

        def write(draft: MergedFile, data: bytes) -> MergedFile:
            if merge.study:
                parts = tuple(part for path in draft.of for part in merge.parts[path])
                note = FileNote(
                    study=merge.study,
                    seq=merge.seq,
                    rest=UNWRITTEN["sha256"],
                    plan=merge.plan,
                    merged=draft,
                    parts=parts,
                )
                data = with_note(data, note)
            return replace(draft, **self._written(draft.path, data))

        path = self.fresh_path(epoch, merge.files[0].lane)
        return merge_files(merge, self.read_part, write, path, go_on)

    def logs(self, epoch: int) -> Path:
        """The folder in which a driver and its workers keep their logs: no part of the study's state."""
        return self.root / "logs" / str(epoch)

    def locate(self, name: str) -> Path:
        """Path of a file of the study on the disk."""
        return LocalStorage(self.root).locate(name)


class Driver:
    """The one process that may commit, from `StudyStore.open_driver` until it is closed or fenced."""

    def __init__(self, storage: Storage, log: CommitLog, lock: StudyLock, epoch: int) -> None:
        self._storage = storage
        self._log = log
        self._lock = lock
        self._plans: set[str] = set()
        self.epoch = epoch

    @property
    def state(self) -> State:
        """State of the study, this driver's commits included."""
        return self._log.state

    def write_plan(self, files: Mapping[str, bytes]) -> PlanRef:
        """Write a plan's files under a fresh name and commit them: from then on it is the plan.

        Raises:
            HeldError: another driver took the study over.
            StorageFullError, StoreError: it could not be written; the plan before it stays.
        """
        plan = PlanRef(id=uuid.uuid4().hex, files={name: FileRef.of(data) for name, data in files.items()})
        self._plans.add(plan.id)
        with self._or_fenced():
            for name, data in files.items():
                self._storage.put_fresh(plan.path(name), data)
            self._storage.put_fresh(plan.path(INDEX), encode_index(plan, self.state.seq, self.state.plans))
            self._log.append(self.epoch, "plan", plan=plan)
            self.lock_late()
        return plan

    def commit(self, manifests: Iterable[Manifest]) -> tuple[Manifest, ...]:
        """Add parts to the results in one commit, and give those refused because their jobs are done.

        A refused part is refused whole: what it held that was not done must run again.

        Raises:
            HeldError: another driver took the study over.
            StorageFullError, StoreError: it could not be written; committing again is safe.
        """
        accepted, refused = self.state.sift(manifests)
        if accepted:
            with self._or_fenced():
                self._log.append(self.epoch, "add", add=accepted)
            self.lock_late()
        return refused

    def adopt(self) -> tuple[Manifest, ...]:
        """Add the parts that killed drivers left uncommitted: their rows are as good as any.

        Raises:
            HeldError: another driver took the study over.
            StorageFullError, StoreError: a part cannot be read, or the commit could not be written.
        """
        found = adoptable(self._storage, self._log.refresh(), epoch=self.epoch)
        for first in range(0, len(found), _MOST_ADOPTED):
            with self._or_fenced():
                self._log.append(self.epoch, "adopt", add=found[first : first + _MOST_ADOPTED])
        return found

    def next_merge(self, most_files: int = MOST_FILES, *, leave_out: Set[str] = frozenset()) -> Merge | None:
        """Next merge; None while there are at most `most_files` files, or no merge is worth it."""
        merge = next_merge(self.state.files, most_files=most_files, leave_out=leave_out)
        if merge is None:
            return None
        held = self.state.parts_by_file()
        return merge._replace(
            parts={file.path: held[file.path] for file in merge.files},
            study=self.state.study,
            seq=self.state.seq,
            plan=None if self.state.plan is None else self.state.plan.id,
        )

    def commit_merged(self, merged: MergedFile) -> None:
        """Let a merged file take the place of what it was made of, for all who read from now on.

        Raises:
            HeldError: another driver took the study over.
            StorageFullError, StoreError: it could not be written; committing again is safe.
        """
        with self._or_fenced():
            self._log.append(self.epoch, "compact", merged=(merged,))

    def collect_garbage(self, grace_s: float = GRACE_S) -> RemovedFiles:
        """Clear what nobody needs: what earlier drivers left behind, and what was replaced `grace_s` ago.

        What cannot be removed stays, and is said; a driver that lost the study clears nothing.

        Raises:
            StoreError: the study cannot be listed.
        """
        return collect_garbage(
            self._storage,
            self._log.refresh,
            epoch=self.epoch,
            grace_s=grace_s,
            own_plans=self._plans,
            is_locked=self._lock.held,
        )

    def check(self) -> None:
        """Make sure that this driver still has the study: whoever took it over may clear its files.

        Raises:
            HeldError: another driver took the study over.
            StoreError: the log cannot be read.
        """
        self._log.refresh()
        self._log.refuse_fenced(self.epoch)

    def lock_late(self) -> None:
        """After a take-over, take the lock as soon as the driver before has ended."""
        if not self._lock.held:
            with contextlib.suppress(StoreError):
                self._lock.acquire(Holder.this_process())

    def close(self) -> None:
        """Let the study go; twice does no harm."""
        self._lock.release()

    @contextlib.contextmanager
    def _or_fenced(self) -> Iterator[None]:
        """Raise `HeldError` for what fails within it, where this driver was fenced: its files may be gone."""
        try:
            yield
        except HeldError:
            raise
        except StoreError:
            with contextlib.suppress(StoreError):
                self._log.refresh()
            self._log.refuse_fenced(self.epoch)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
