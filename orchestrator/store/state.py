"""State of a study: its commits folded into one value, the same in every process that read as many."""

__all__ = ["State"]

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import TypeVar

from orchestrator.store.commit import Commit, PlanRef, Snapshot
from orchestrator.store.intervals import IntervalSet
from orchestrator.store.lock import Holder
from orchestrator.store.manifest import Manifest, MergedFile, StoredFile
from workers.metrics import METRIC_FAMILIES, families_in


class State:
    """State of a study: the fold of its commits, from the first to `seq`. Only its log changes it."""

    def __init__(self) -> None:
        self.study = ""
        """The nonce of the first commit: what makes the study this one, whatever its folder is called."""
        self.seq = 0
        """The number of the last commit."""
        self.epoch = 0
        """The number of the last ``open`` commit: only its driver's commits count."""
        self.holder: Holder | None = None
        """Process that made that ``open`` commit."""
        self.time_s = 0.0
        """Time of the last commit, in seconds since 1970."""
        self.plan: PlanRef | None = None
        """The latest plan."""
        self.num_rows: Counter[str] = Counter()
        """Jobs done, for each metric family; a retried job counts once."""
        self.num_failed: Counter[str] = Counter()
        """Jobs whose row holds an error."""
        self._plans: set[str] = set()
        self._live: dict[str, Manifest] = {}
        self._done: dict[tuple[str, int], IntervalSet] = {}
        self._retried: dict[str, IntervalSet] = {}
        self._files: dict[str, StoredFile] = {}
        self._merged_into: dict[str, str] = {}
        self._replaced: dict[str, float] = {}
        self._lost: dict[str, IntervalSet] = {}

    @property
    def lost_retries(self) -> Mapping[str, tuple[tuple[int, int], ...]]:
        """Jobs of parts whose retries were dropped, as ``k * P + j``: their failed rows are to run again."""
        return {path: jobs.intervals() for path, jobs in self._lost.items() if len(jobs)}

    @property
    def plans(self) -> Set[str]:
        """The ids of all plans that were ever committed."""
        return self._plans.copy()

    @property
    def live(self) -> Mapping[str, Manifest]:
        """Parts that were ever accepted, by path, in order: where rows come from, retries included.

        Its rows may lie in another file by now: `file_of` says in which.
        """
        return MappingProxyType(self._live)

    @property
    def files(self) -> Mapping[str, StoredFile]:
        """The files that hold all rows now, by path."""
        return MappingProxyType(self._files)

    @property
    def replaced(self) -> Mapping[str, float]:
        """The files whose rows lie in a merged one now, and since when, in seconds since 1970."""
        return MappingProxyType(self._replaced)

    def file_of(self, path: str) -> StoredFile:
        """The file that holds the rows of the part `path` now.

        Raises:
            KeyError: no commit added such a part.
        """
        while path in self._merged_into:
            path = self._merged_into[path]
        return self._files[path]

    def parts_by_file(self) -> dict[str, tuple[Manifest, ...]]:
        """For each file the parts whose rows lie in it now, in order."""
        found: dict[str, list[Manifest]] = {path: [] for path in self._files}
        for path, part in self._live.items():
            found[self.file_of(path).path].append(part)
        return {path: tuple(parts) for path, parts in found.items()}

    def retried(self, path: str) -> IntervalSet:
        """The jobs of the part `path` that retries replaced, as ``k * P + j``; a copy, the caller's own."""
        return self._retried.get(path, _NOTHING).copy()

    def done(self, family: str, tile: int) -> IntervalSet:
        """The cells of `tile` whose jobs have this metric family; a copy, the caller's own."""
        found = self._done.get((family, tile), _NOTHING).copy()
        for other in METRIC_FAMILIES:
            if other != family and family in families_in([other]):
                for lo, hi in self._done.get((other, tile), _NOTHING).intervals():
                    found.add(lo, hi)
        return found

    def accepts(self, manifest: Manifest, beside: Sequence[Manifest] = ()) -> bool:
        """Whether the part may be added, together with those `beside` it.

        None of its jobs may be done. A retry must name a live part that is no retry, stay inside its slice,
        replace failed rows only, and be the first for each of its jobs.
        """
        if manifest.path in self._files or manifest.path in self._replaced:
            return False
        if any(manifest.path == other.path or manifest.overlaps(other) for other in beside):
            return False
        if manifest.replaces is not None:
            return self._accepts_retry(manifest, manifest.replaces, beside)
        return not any(
            self._done.get((family, manifest.tile), _NOTHING).overlaps(manifest.k_lo, manifest.k_hi)
            for family in manifest.families
        )

    def sift(self, manifests: Iterable[Manifest]) -> tuple[tuple[Manifest, ...], tuple[Manifest, ...]]:
        """Split into the parts that may be added together, first come first served, and the others."""
        accepted: list[Manifest] = []
        refused: list[Manifest] = []
        for manifest in manifests:
            (accepted if self.accepts(manifest, accepted) else refused).append(manifest)
        return tuple(accepted), tuple(refused)

    def apply(self, commit: Commit) -> None:
        """Go on by one commit. One of a driver that lost the study counts for nothing."""
        assert commit.seq == self.seq + 1, (commit.seq, self.seq)
        self.seq, self.time_s = commit.seq, commit.time_s
        if commit.seq == 1:
            self.study = commit.nonce
        if commit.kind == "open":
            self.epoch, self.holder = commit.seq, commit.holder
        elif commit.epoch == self.epoch:
            self._apply_content(commit)

    @classmethod
    def rebuilt(cls, commit: Commit) -> "State":
        """State that a ``rebuild`` commit says, whatever was before it."""
        assert commit.rebuilt is not None
        return cls.of(
            commit.rebuilt,
            seq=commit.seq,
            epoch=commit.seq,
            holder=commit.holder,
            time_s=commit.time_s,
        )

    @classmethod
    def of(cls, snapshot: Snapshot, *, seq: int, epoch: int, holder: Holder | None, time_s: float) -> "State":
        """The state that `snapshot` was taken of, after commit `seq`."""
        state = cls()
        state.study, state.seq, state.epoch, state.holder = snapshot.study, seq, epoch, holder
        state.time_s = time_s
        state.plan, state._plans = snapshot.plan, set(snapshot.plans)
        for part in snapshot.parts:
            state._add(part)
        for merged in snapshot.merged:
            state._swap(merged, time_s)
        state._replaced = dict(snapshot.replaced)
        for path, jobs in snapshot.lost.items():
            for lo, hi in jobs:
                _grow(state._lost, path, lo, hi)
        return state

    def snapshot(self) -> Snapshot:
        """Snapshot of the state, of which `of` makes it again."""
        held = self.parts_by_file()
        files = {path: self._files[path] for path in held if path not in self._live}
        return Snapshot(
            study=self.study,
            plan=self.plan,
            plans=tuple(sorted(self._plans)),
            parts=tuple(self._live.values()),
            merged=tuple(
                merged_file(file, tuple(part.path for part in held[path])) for path, file in files.items()
            ),
            replaced=dict(self._replaced),
            lost=dict(self.lost_retries),
        )

    def _apply_content(self, commit: Commit) -> None:
        if commit.plan is not None:
            self.plan = commit.plan
            self._plans.add(commit.plan.id)
        for manifest in commit.add:
            # The first one that was committed wins, for whoever reads the log.
            if self.accepts(manifest):
                self._add(manifest)
        self._drop(commit.drop)
        # All at once or not at all: half a merge would show rows twice.
        if commit.merged and self._accepts_merged(commit.merged):
            for merged in commit.merged:
                self._swap(merged, commit.time_s)

    def put(self, manifest: Manifest) -> None:
        """Add a part that was accepted; only for states of one's own, which no log changes."""
        self._add(manifest)

    def _add(self, manifest: Manifest) -> None:
        self._live[manifest.path] = manifest
        self._files[manifest.path] = manifest.file
        if manifest.replaces is not None:
            for lo, hi in manifest.jobs:
                _grow(self._retried, manifest.replaces, lo, hi)
                _shrink(self._lost, manifest.replaces, lo, hi)
        for family in manifest.families:
            if manifest.replaces is None:
                _grow(self._done, (family, manifest.tile), manifest.k_lo, manifest.k_hi)
                self.num_rows[family] += manifest.rows
                self.num_failed[family] += manifest.failed
            else:
                # Each of its rows replaces one that had failed.
                self.num_failed[family] += manifest.failed - manifest.rows

    def dropped_with(self, paths: Iterable[str]) -> tuple[str, ...]:
        """The files that go where those of `paths` go, themselves included, in order.

        A retry means nothing without its part. Where its rows lie among others, those go as well, and their
        jobs run again.
        """
        gone = {path for path in paths if path in self._files}
        if not gone:
            return ()
        for path, part in self._live.items():
            if part.replaces is not None and self.file_of(part.replaces).path in gone:
                gone.add(self.file_of(path).path)
        return tuple(path for path in self._files if path in gone)

    def without(self, paths: Iterable[str]) -> "State":
        """Rest for readers where the files `paths` are lost; a value of its own.

        A retry whose part is lost goes as well, but its file stays as long as other retries lie in it.
        """
        assert self.seq, "there is a log"
        left = State.of(
            self.snapshot(), seq=self.seq, epoch=self.epoch, holder=self.holder, time_s=self.time_s
        )
        gone = {path for path in paths if path in left._files}
        lost = {path for path in left._live if left.file_of(path).path in gone}
        lost |= {path for path, part in left._live.items() if part.replaces in lost}
        held = left.parts_by_file()
        gone |= {path for path, parts in held.items() if parts and lost.issuperset(p.path for p in parts)}
        left._take_out(gone, {path: left._live[path] for path in lost})
        return left

    def _drop(self, paths: Sequence[str]) -> None:
        """Forget files with all that they hold: their jobs are open again."""
        gone = set(self.dropped_with(paths))
        if gone:
            parts = {path: part for path, part in self._live.items() if self.file_of(path).path in gone}
            self._take_out(gone, parts)

    def _take_out(self, files: Set[str], parts: Mapping[str, Manifest]) -> None:
        """Forget these files, and these parts, wherever their rows lie."""
        for part in parts.values():
            self._forget(part, is_whole=part.replaces in parts)
        for path in files:
            del self._files[path]
        for path in parts:
            del self._live[path]
            self._merged_into.pop(path, None)
            self._replaced.pop(path, None)
            self._retried.pop(path, None)
            self._lost.pop(path, None)

    def _forget(self, part: Manifest, *, is_whole: bool) -> None:
        """Take the jobs of `part` from what is done; of a retry, `is_whole` where its part goes too."""
        for family in part.families:
            if part.replaces is None:
                _shrink(self._done, (family, part.tile), part.k_lo, part.k_hi)
                self.num_rows[family] -= part.rows
                self.num_failed[family] -= part.failed
            else:
                self.num_failed[family] += part.rows - part.failed
        if part.replaces is not None and not is_whole:
            for lo, hi in part.jobs:
                _shrink(self._retried, part.replaces, lo, hi)
                _grow(self._lost, part.replaces, lo, hi)

    def _swap(self, merged: MergedFile, time_s: float) -> None:
        """A merged file takes the place of the files that it was made of."""
        for path in merged.of:
            del self._files[path]
            self._merged_into[path] = merged.path
            self._replaced[path] = time_s
        self._files[merged.path] = merged.file

    def _accepts_merged(self, merged: Sequence[MergedFile]) -> bool:
        """Whether each has the rows of current files of its own kind, and no two share one."""
        olds = [path for one in merged for path in one.of]
        news = [one.path for one in merged]
        if len({*olds, *news}) < len(olds) + len(news) or any(path in self._replaced for path in news):
            return False
        return all(path in self._files for path in olds) and all(self._has_rows_of(one) for one in merged)

    def _has_rows_of(self, merged: MergedFile) -> bool:
        files = [self._files[path] for path in merged.of]
        kinds = {(file.lane, file.families, file.is_retry) for file in files}
        return (
            merged.path not in self._files
            and kinds == {(merged.lane, merged.families, merged.is_retry)}
            and sum(file.rows for file in files) == merged.rows
        )

    def _accepts_retry(self, manifest: Manifest, path: str, beside: Sequence[Manifest]) -> bool:
        replaced = self._live.get(path)
        if replaced is None or replaced.is_retry or not _is_slice_of(manifest, replaced):
            return False
        before = self._retried.get(path, _NOTHING)
        num_taken = len(before) + sum(other.rows for other in beside if other.replaces == path)
        return manifest.rows <= replaced.failed - num_taken and not any(
            before.overlaps(lo, hi) for lo, hi in manifest.jobs
        )


def _is_slice_of(retry: Manifest, part: Manifest) -> bool:
    """Whether all jobs of `retry` are some of those of `part`."""
    num_pairs = part.rows // (part.k_hi - part.k_lo)
    return (
        (part.lane, part.tile, part.families) == (retry.lane, retry.tile, retry.families)
        and part.k_lo <= retry.k_lo < retry.k_hi <= part.k_hi
        and retry.k_lo * num_pairs <= retry.jobs[0][0]
        and retry.jobs[-1][1] <= retry.k_hi * num_pairs
    )


def merged_file(file: StoredFile, of: tuple[str, ...]) -> MergedFile:
    """A file that holds the rows of the parts `of`, as commits name one."""
    return MergedFile(**file._asdict(), of=of)


_Key = TypeVar("_Key")

_NOTHING = IntervalSet()
"""Stands for every set that nothing was put into; never grown."""


def _shrink(sets: dict[_Key, IntervalSet], key: _Key, lo: int, hi: int) -> None:
    if key in sets:
        sets[key].remove(lo, hi)
        if not len(sets[key]):
            del sets[key]


def _grow(sets: dict[_Key, IntervalSet], key: _Key, lo: int, hi: int) -> None:
    found = sets.get(key)
    if found is None:
        found = sets[key] = IntervalSet()
    found.add(lo, hi)
