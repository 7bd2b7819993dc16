"""What a study holds: the commits folded into one value, the same in every process that read as many."""

__all__ = ["State"]

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar

from orchestrator.store.commit import Commit, PlanRef
from orchestrator.store.done import IntervalSet
from orchestrator.store.lock import Holder
from orchestrator.store.manifest import Manifest


class State:
    """The fold of a study's commits, from the first to `seq`. Only its log changes it."""

    def __init__(self) -> None:
        self.seq = 0
        """The number of the last commit."""
        self.epoch = 0
        """The number of the last ``open`` commit: only its driver's commits count."""
        self.holder: Holder | None = None
        """Who made that ``open`` commit."""
        self.time_s = 0.0
        """When the last commit was made, in seconds since 1970."""
        self.plan: PlanRef | None = None
        """The latest plan."""
        self.num_rows: Counter[str] = Counter()
        """Jobs done, for each metric family; a retried job counts once."""
        self.num_failed: Counter[str] = Counter()
        """Those whose row holds an error."""
        self._live: dict[str, Manifest] = {}
        self._done: dict[tuple[str, int], IntervalSet] = {}
        self._retried: dict[str, IntervalSet] = {}

    @property
    def live(self) -> Mapping[str, Manifest]:
        """The parts that make up the results, by path, in the order in which they were committed."""
        return MappingProxyType(self._live)

    def done(self, family: str, tile: int) -> IntervalSet:
        """The cells of `tile` whose jobs have this metric family; a copy, the caller's own."""
        return self._done.get((family, tile), _NOTHING).copy()

    def accepts(self, manifest: Manifest) -> bool:
        """Whether none of the part's jobs is done; for a retry, whether it may replace what it names."""
        if manifest.path in self._live:
            return False
        if manifest.replaces is not None:
            return self._accepts_retry(manifest, manifest.replaces)
        return not any(
            self._done.get((family, manifest.tile), _NOTHING).overlaps(manifest.k_lo, manifest.k_hi)
            for family in manifest.families
        )

    def sift(self, manifests: Iterable[Manifest]) -> tuple[tuple[Manifest, ...], tuple[Manifest, ...]]:
        """Split into the parts that may be added together, first come first served, and the others."""
        accepted: list[Manifest] = []
        refused: list[Manifest] = []
        for manifest in manifests:
            fits = self.accepts(manifest) and not any(manifest.overlaps(other) for other in accepted)
            (accepted if fits else refused).append(manifest)
        return tuple(accepted), tuple(refused)

    def apply(self, commit: Commit) -> None:
        """Go on by one commit. One of a driver that lost the study counts for nothing."""
        assert commit.seq == self.seq + 1, (commit.seq, self.seq)
        self.seq, self.time_s = commit.seq, commit.time_s
        if commit.kind == "open":
            self.epoch, self.holder = commit.seq, commit.holder
        elif commit.epoch == self.epoch:
            self._apply_content(commit)

    def _apply_content(self, commit: Commit) -> None:
        if commit.kind == "plan":
            self.plan = commit.plan
        elif commit.kind == "compact":
            self._swap(commit)
        else:
            for manifest in commit.add:
                # The first one that was committed wins, for whoever reads the log.
                if self.accepts(manifest):
                    self._add(manifest)

    def _add(self, manifest: Manifest) -> None:
        self._live[manifest.path] = manifest
        if manifest.replaces is not None:
            _grow(self._retried, manifest.replaces, manifest)
        for family in manifest.families:
            if manifest.replaces is None:
                _grow(self._done, (family, manifest.tile), manifest)
                self.num_rows[family] += manifest.rows
                self.num_failed[family] += manifest.failed
            else:
                # Each of its rows replaces one that had failed.
                self.num_failed[family] += manifest.failed - manifest.rows

    def _swap(self, commit: Commit) -> None:
        """Merged parts take the place of the parts they were made of, all at once or not at all."""
        if all(path in self._live for path in commit.remove):
            for path in commit.remove:
                del self._live[path]
            self._live.update((manifest.path, manifest) for manifest in commit.add)

    def _accepts_retry(self, manifest: Manifest, path: str) -> bool:
        """A retry names a live part that is no retry, stays inside its slice, and is the first there."""
        replaced = self._live.get(path)
        return (
            replaced is not None
            and replaced.replaces is None
            and (replaced.lane, replaced.tile, replaced.families)
            == (manifest.lane, manifest.tile, manifest.families)
            and replaced.k_lo <= manifest.k_lo < manifest.k_hi <= replaced.k_hi
            and not self._retried.get(path, _NOTHING).overlaps(manifest.k_lo, manifest.k_hi)
        )


_Key = TypeVar("_Key")

_NOTHING = IntervalSet()
"""Stands for every set that nothing was put into; never grown."""


def _grow(sets: dict[_Key, IntervalSet], key: _Key, manifest: Manifest) -> None:
    found = sets.get(key)
    if found is None:
        found = sets[key] = IntervalSet()
    found.add(manifest.k_lo, manifest.k_hi)
