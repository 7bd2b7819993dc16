"""Activation cache: activations and logits of clean runs, once for each distinct prompt, within a budget.

Shapes: B prompts, T tokens, E width of an input vector, R read positions, W width, V vocabulary.
"""

__all__ = ["ActivationCache", "Kept", "PromptActivations", "PromptNeed", "stacked"]

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from workers.engine.attempts import attempt, tried
from workers.engine.replay.base_cache import BaseCache, BaseCaches, BaseExtent, Prefix, num_shared, run_prefix
from workers.errors import RunError, SwapyardError
from workers.intervene.regions import Region, joined, tap_of
from workers.intervene.values import CachedActivation
from workers.model.hooks import Tap, Visit
from workers.model.loading import LoadedModel
from workers.model.windows import window_of
from workers.vocabulary import Prompt, Span, Vectors

if TYPE_CHECKING:
    from workers.engine.replay.kv_cache import RunCache

_T = TypeVar("_T")

Kept = frozenset[tuple[Tap | Region, Span | None]]
"""Places whose activations a batch takes, each with the tokens that are enough; None for all."""


@dataclass(slots=True)
class PromptNeed:
    """Activations and logits that are wanted of one prompt's clean run."""

    taps: set[Tap | Region] = field(default_factory=set)
    reads: set[int] = field(default_factory=set)
    """Tokens whose next-token logits are wanted."""
    is_base: bool = False
    """Whether jobs resume from this run's KV cache."""
    spans: dict[Tap | Region, Span] = field(default_factory=dict)
    """Tokens that are enough at a tap; at the others all are wanted."""

    def add(self, taps: Mapping[Tap | Region, Span | None]) -> None:
        """Add to the need: at each tap some tokens, or all."""
        for place, span in taps.items():
            wanted = [span, self.spans.get(place)] if place in self.taps else [span]
            self.taps.add(place)
            self.spans.pop(place, None)
            if (whole := _hull(wanted)) is not None:
                self.spans[place] = whole


@dataclass(slots=True)
class PromptActivations:
    """Cached activations and logits of one prompt's clean run."""

    taps: dict[Tap | Region, Tensor] = field(default_factory=dict)
    """[T, W] each, or of the tokens in `spans` alone, or [1, W] where the tap holds one position (see
    `window_of`), or what the getter of a region found; in the model's dtype."""
    logits: dict[int, Tensor] = field(default_factory=dict)
    """[V] each, at the token read."""
    spans: dict[Tap | Region, Span] = field(default_factory=dict)
    """Tokens that were kept, of taps where not all were."""
    num_tokens: int = 0
    """T."""

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        return sum(kept.nbytes for kept in (*self.taps.values(), *self.logits.values()))

    def kept(self, place: Tap | Region) -> CachedActivation:
        """Cached activation at a place."""
        if place not in self.spans:
            return CachedActivation(self.taps[place])
        return CachedActivation(self.taps[place], self.spans[place][0], self.num_tokens)

    def lacks(self, need: PromptNeed) -> bool:
        """Whether something needed is not here."""
        return bool(self.lacking(need)) or not need.reads <= self.logits.keys()

    def lacking(self, need: PromptNeed) -> set[Tap | Region]:
        """The places of which something needed is not here."""
        return {place for place in need.taps if not self._has(place, need.spans.get(place))}

    def _has(self, place: Tap | Region, span: Span | None) -> bool:
        if place not in self.taps or place not in self.spans:
            return place in self.taps
        low, high = self.spans[place]
        return span is not None and low <= span[0] and span[1] <= high


class ActivationCache:
    """Activations of clean runs of the prompts used last, within a budget of memory.

    Args:
        model: whose runs these are.
        budget_bytes: what may be held; what is needed at once is held even beyond it.
    """

    def __init__(self, model: LoadedModel, *, budget_bytes: int) -> None:
        self._model = model
        self.budget_bytes = budget_bytes
        self._bases = BaseCaches(budget_bytes=budget_bytes // 2)
        self._prefix: Prefix | None = None
        self.base_cache: BaseCache | None = None
        """KV cache of the bases of the last `prepare`; None where no job is resumed."""
        self._held: OrderedDict[Prompt, PromptActivations] = OrderedDict()
        """Runs by prompt, the one used longest ago first."""
        self._size_bytes = 0
        """Memory of all runs that are held."""
        self._bytes_per_token: dict[Kept, float] = {}
        self.num_forwards = 0
        self.broken: dict[Tap | Region, SwapyardError] = {}
        """Taps that the runs of the last `prepare` found nothing to read by position at, regions that could
        not be read, and why."""

    def __getitem__(self, prompt: Prompt) -> PromptActivations:
        """The capture of a prompt that `prepare` was asked for.

        Raises:
            KeyError: its run failed.
        """
        return self._held[prompt]

    def get(self, prompt: Prompt) -> PromptActivations | None:
        """The capture of a prompt; None where there is none."""
        return self._held.get(prompt)

    def bytes_per_token(self, taps: Kept, needs: Mapping[Prompt, PromptNeed]) -> float:
        """Size of a capture that keeps `taps`, what `needs` are of: measured once, on their prompts."""
        if taps not in self._bytes_per_token:
            self.prepare(needs, max_tokens=1)
            sizes = [self._held[p].size_bytes / max(1, len(p)) for p in needs if p in self._held]
            self._bytes_per_token[taps] = max(sizes, default=0.0)
        return self._bytes_per_token[taps]

    def prepare(
        self, needs: Mapping[Prompt, PromptNeed], *, max_tokens: int, extent: BaseExtent | None = None
    ) -> dict[Prompt, Exception]:
        """Run what is lacking, prompts of one length together and at most `max_tokens` tokens at once.

        Args:
            needs: what is wanted of each prompt.
            max_tokens: rows × tokens of one forward.
            extent: what is kept of bases; None where none are wanted.

        Returns:
            The prompts whose runs failed, each with the exception.
        """
        self.broken = {}
        self.base_cache = None
        if extent is not None:
            assert self._model.resume is not None
            bases = [prompt for prompt, need in needs.items() if need.is_base]
            self.base_cache = self._bases.reserve(self._model.resume, bases, extent)
        lacking: dict[int, list[Prompt]] = {}
        for prompt, need in needs.items():
            held = self._held.setdefault(prompt, PromptActivations())
            self._held.move_to_end(prompt)
            if held.lacks(need) or (self.base_cache is not None and self.base_cache.awaits(prompt)):
                lacking.setdefault(len(prompt), []).append(prompt)
        failed: dict[Prompt, Exception] = {}
        for length, prompts in lacking.items():
            shared = self._shared(prompts, needs)
            size = max(1, max_tokens // max(1, length - shared))
            for start in range(0, len(prompts), size):
                failed |= self._run(prompts[start : start + size], needs, shared)
        for prompt in failed:
            self._drop(prompt)
            if self.base_cache is not None:
                self.base_cache.drop(prompt)
        self._shrink(keep=needs.keys())
        return failed

    def _shared(self, prompts: Sequence[Prompt], needs: Mapping[Prompt, PromptNeed]) -> int:
        """Number of shared first tokens that are run for all prompts at once: prefix caching.

        None that a job may change; and where something is wanted outside the blocks, all run whole.
        """
        resume = self._model.resume
        if resume is None or not resume.shares_prefixes:
            return 0
        wanted = [needs[prompt] for prompt in prompts]
        places = _union(need.taps for need in wanted)
        if not all(isinstance(one, Tap) and one.module in resume.block_of for one in places):
            return 0
        reads = [read for need in wanted for read in need.reads]
        firsts = (
            [self.base_cache.extent.first] if self.base_cache and any(need.is_base for need in wanted) else []
        )
        return num_shared(prompts, min([len(prompts[0]) - 1, *reads, *firsts]))

    def _run(
        self, prompts: list[Prompt], needs: Mapping[Prompt, PromptNeed], shared: int
    ) -> dict[Prompt, Exception]:
        """Run one forward, or halves where it fails; the prompts that fail alone, with their errors."""
        if shared and attempt(lambda: self._forward(prompts, needs, shared)) is None:
            return {}
        failed: dict[Prompt, Exception] = {}
        tried(lambda some: self._forward(some, needs, 0), prompts, failed.__setitem__)
        return failed

    def _forward(self, prompts: Sequence[Prompt], needs: Mapping[Prompt, PromptNeed], shared: int) -> None:
        self.num_forwards += 1
        held = [self._held[prompt] for prompt in prompts]
        wanted = [needs[prompt] for prompt in prompts]
        lacking = [capture.lacking(need) for need, capture in zip(wanted, held, strict=True)]
        taps = _union(lacking) - self.broken.keys()
        spans = {
            tap: _hull([n.spans.get(tap) for n, lack in zip(wanted, lacking, strict=True) if tap in lack])
            for tap in taps
        }
        reads = sorted(_union(n.reads - h.logits.keys() for n, h in zip(wanted, held, strict=True))) or [
            shared
        ]
        # A region is read in whole runs alone.
        plain = {one for one in taps if isinstance(one, Tap) and _begins(spans[one]) < shared}
        prefix = self._prefix_of(prompts[0][:shared], plain) if shared else None
        tokens = stacked([p[shared:] for p in prompts] if shared else prompts, self._model.device)
        at = torch.tensor(reads, device=tokens.device).expand(len(prompts), -1) - shared  # [B, R]
        kept: dict[Tap | Region, list[Tensor]] = {}
        narrow: dict[Tap | Region, Span] = {}
        keeper = _Keeper(kept, narrow, self.broken, len(prompts), len(prompts[0]), shared)
        visits = [(tap_of(one), keeper.visit(one, spans[one])) for one in sorted(taps, key=str)]
        recording, cache = self._recording(prompts, prefix)
        logits, seen = self._model.forward(tokens, at, [*recording, *visits], cache=cache, first=shared)
        if self.base_cache is not None:
            self.base_cache.recorded(prompts)
        faults = seen.faults()
        self.broken |= {one: faults[tap_of(one)] for one in taps if tap_of(one) in faults}
        whole = {tap: joined(parts) for tap, parts in kept.items() if tap not in self.broken}
        for row, (need, capture) in enumerate(zip(wanted, held, strict=True)):
            self._size_bytes -= capture.size_bytes
            capture.num_tokens = len(prompts[0])
            for tap in lacking[row] & whole.keys():
                after, span = whole[tap][row], narrow.get(tap)
                before = prefix.taps.get(tap) if prefix and isinstance(tap, Tap) else None
                low, high = span or (0, shared)
                capture.taps[tap] = (
                    after.clone() if before is None else torch.cat([before[0, low:high], after])
                )
                capture.spans.pop(tap, None)
                if span is not None:
                    capture.spans[tap] = span
            for column, read in enumerate(reads):
                if read in need.reads:
                    capture.logits[read] = logits[row, column].clone()
            self._size_bytes += capture.size_bytes

    def _prefix_of(self, tokens: Prompt, taps: set[Tap]) -> Prefix:
        """The run of a prefix, which is kept until there is another."""
        if self._prefix is None or self._prefix.tokens != tokens or not taps <= self._prefix.taps.keys():
            self.num_forwards += 1
            self._prefix = run_prefix(self._model, tokens, taps)
        return self._prefix

    def _recording(
        self, prompts: Sequence[Prompt], prefix: Prefix | None
    ) -> tuple[list[tuple[Tap, Visit]], "RunCache | None"]:
        """Visits and a cache for a forward of `prompts` that record what the base cache awaits of them."""
        resume, device, keep = self._model.resume, self._model.device, None
        visits: list[tuple[Tap, Visit]] = []
        if self.base_cache is not None and any(self.base_cache.awaits(prompt) for prompt in prompts):
            num_before = 0 if prefix is None else len(prefix.tokens)
            visits, keep = self.base_cache.recording(prompts, device, num_before=num_before)
        if prefix is not None:
            return visits, prefix.cache(len(prompts), device, keep)
        if keep is None or resume is None:
            return visits, None
        from workers.engine.replay.kv_cache import RunCache

        return visits, RunCache(resume.num_blocks, keep=keep)

    def _shrink(self, *, keep: Collection[Prompt]) -> None:
        """Let go of what was used longest ago until the budget holds, but for `keep`, which was used last."""
        while self._size_bytes + self._bases.size_bytes > self.budget_bytes:
            oldest = next(iter(self._held), None)
            if oldest is None or oldest in keep:
                break
            self._drop(oldest)

    def _drop(self, prompt: Prompt) -> None:
        self._size_bytes -= self._held.pop(prompt).size_bytes


def stacked(prompts: Sequence[Prompt], device: torch.device) -> Tensor:
    """Prompts of one length as a batch: token ids [B, T], or vectors [B, T, E] in float32.

    Raises:
        RunError: some are ids and others vectors, or their vectors are not equally wide.
    """
    vectors = [prompt for prompt in prompts if isinstance(prompt, Vectors)]
    if not vectors:
        return torch.tensor(prompts, device=device)
    shapes = {prompt.shape for prompt in vectors}
    if len(vectors) < len(prompts) or len(shapes) > 1:
        raise RunError(
            "prompts of different forms share no forward: give all as ids, or as equally wide vectors"
        )
    # A copy: torch does not write into what it is given here, but will not take bytes that nobody may write.
    numbers = torch.frombuffer(bytearray(b"".join(prompt.data for prompt in vectors)), dtype=torch.float32)
    return numbers.reshape(len(vectors), *shapes.pop()).to(device)


@dataclass(frozen=True, slots=True)
class _Keeper:
    """Hooks that cache the activations at places in one forward."""

    kept: dict[Tap | Region, list[Tensor]]
    narrow: dict[Tap | Region, Span]
    """Tokens that were kept, of taps where not all were."""
    broken: dict[Tap | Region, SwapyardError]
    num_rows: int
    num_tokens: int
    """T, of the whole prompts."""
    first: int
    """The token that the forward begins at."""

    def visit(self, place: Tap | Region, span: Span | None) -> Visit:
        """Hook that caches the activations at `place`, [B, P, W] of a tap; of its tokens only `span`."""

        def keep(tensor: Tensor, call: int) -> None:
            try:
                values = self._values(tensor, place, call, span)
            except SwapyardError as error:
                self.broken[place] = error
            else:
                # A module further on may write into this tensor: only a copy stays what it was.
                self.kept.setdefault(place, []).append(values.clone())

        return keep

    def _values(self, tensor: Tensor, place: Tap | Region, call: int, span: Span | None) -> Tensor:
        if isinstance(place, Region):
            return place.read(tensor)
        window = window_of(tensor, place, call, self.num_rows, self.num_tokens, self.first)
        # A step, and what is the only one of a run, is kept as it is.
        if span is None or place.per_step or window.num_positions != self.num_tokens:
            return window.values
        self.narrow[place] = span
        low, high = (max(0, end - self.first) for end in span)
        return window.values[:, low:high]


def _union(sets: Iterable[set[_T]]) -> set[_T]:
    return set().union(*sets)


def _hull(spans: Sequence[Span | None]) -> Span | None:
    """The tokens from the first to the last of all spans; None where one of them is all tokens."""
    known = [span for span in spans if span is not None]
    if len(known) < len(spans):
        return None
    return min(low for low, _ in known), max(high for _, high in known)


def _begins(span: Span | None) -> int:
    return 0 if span is None else span[0]
