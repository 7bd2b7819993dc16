"""What clean runs hold at the places that units take values from: once for each distinct prompt.

Shapes: B prompts, T tokens, E width of an input vector, R read positions, W width, V vocabulary.
"""

__all__ = ["Capture", "Captures", "Need", "stacked"]

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from workers.change.regions import Region, tap_of
from workers.engine.attempts import attempt
from workers.errors import RunError, SwapyardError
from workers.model.hooks import Tap, Visit
from workers.model.loading import LoadedModel
from workers.model.windows import window_of
from workers.vocabulary import Prompt, Vectors

_T = TypeVar("_T")


@dataclass(slots=True)
class Need:
    """What is wanted of one prompt's clean run."""

    taps: set[Tap | Region] = field(default_factory=set)
    reads: set[int] = field(default_factory=set)
    """Tokens whose next-token logits are wanted."""


@dataclass(slots=True)
class Capture:
    """What was kept of one prompt's clean run."""

    taps: dict[Tap | Region, Tensor] = field(default_factory=dict)
    """[T, W] each, or [1, W] where the tap holds one position (see `window_of`), or what the getter of a
    region found; in the model's dtype."""
    logits: dict[int, Tensor] = field(default_factory=dict)
    """[V] each, at the token read."""

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        return sum(kept.nbytes for kept in (*self.taps.values(), *self.logits.values()))

    def lacks(self, need: Need) -> bool:
        """Whether something needed is not here."""
        return not (need.taps <= self.taps.keys() and need.reads <= self.logits.keys())


class Captures:
    """Captures of the prompts used last, within a budget of memory.

    Args:
        model: whose runs these are.
        budget_bytes: what may be held; what is needed at once is held even beyond it.
    """

    def __init__(self, model: LoadedModel, *, budget_bytes: int) -> None:
        self._model = model
        self.budget_bytes = budget_bytes
        self._held: OrderedDict[Prompt, Capture] = OrderedDict()
        self._bytes_per_token: dict[frozenset[Tap | Region], float] = {}
        self.num_forwards = 0
        self.broken: dict[Tap | Region, SwapyardError] = {}
        """Taps that the runs of the last `prepare` found nothing to read by position at, regions that could
        not be read, and why."""

    def __getitem__(self, prompt: Prompt) -> Capture:
        """The capture of a prompt that `prepare` was asked for.

        Raises:
            KeyError: its run failed.
        """
        return self._held[prompt]

    def get(self, prompt: Prompt) -> Capture | None:
        """The capture of a prompt; None where there is none."""
        return self._held.get(prompt)

    def bytes_per_token(self, taps: frozenset[Tap | Region], needs: Mapping[Prompt, Need]) -> float:
        """Size of a capture that keeps `taps`: measured once, on the prompts of `needs`."""
        if taps not in self._bytes_per_token:
            self.prepare(needs, max_tokens=1)
            sizes = [self._held[p].size_bytes / max(1, len(p)) for p in needs if p in self._held]
            self._bytes_per_token[taps] = max(sizes, default=0.0)
        return self._bytes_per_token[taps]

    def prepare(self, needs: Mapping[Prompt, Need], *, max_tokens: int) -> dict[Prompt, Exception]:
        """Run what is lacking, prompts of one length together and at most `max_tokens` tokens at once.

        Returns:
            The prompts whose runs failed, each with the exception.
        """
        self.broken = {}
        lacking: dict[int, list[Prompt]] = {}
        for prompt, need in needs.items():
            held = self._held.setdefault(prompt, Capture())
            self._held.move_to_end(prompt)
            if held.lacks(need):
                lacking.setdefault(len(prompt), []).append(prompt)
        failed: dict[Prompt, Exception] = {}
        for length, prompts in lacking.items():
            size = max(1, max_tokens // max(1, length))
            for start in range(0, len(prompts), size):
                failed |= self._run(prompts[start : start + size], needs)
        for prompt in failed:
            del self._held[prompt]
        self._shrink(keep=needs.keys())
        return failed

    def _run(self, prompts: list[Prompt], needs: Mapping[Prompt, Need]) -> dict[Prompt, Exception]:
        """One forward; where it fails, halves, so that one bad prompt spoils no other."""
        error = attempt(lambda: self._forward(prompts, needs))
        if error is None:
            return {}
        if len(prompts) == 1:
            return {prompts[0]: error}
        half = len(prompts) // 2
        return self._run(prompts[:half], needs) | self._run(prompts[half:], needs)

    def _forward(self, prompts: list[Prompt], needs: Mapping[Prompt, Need]) -> None:
        self.num_forwards += 1
        held = [self._held[prompt] for prompt in prompts]
        wanted = [needs[prompt] for prompt in prompts]
        taps = _union(n.taps - h.taps.keys() for n, h in zip(wanted, held, strict=True)) - self.broken.keys()
        reads = sorted(_union(n.reads - h.logits.keys() for n, h in zip(wanted, held, strict=True))) or [0]
        tokens = stacked(prompts, self._model.device)
        at = torch.tensor(reads, device=tokens.device).expand(len(prompts), -1)  # [B, R]
        kept: dict[Tap | Region, list[Tensor]] = {}
        visits = [
            (tap_of(one), _keeper(kept, self.broken, one, tokens.shape)) for one in sorted(taps, key=str)
        ]
        logits, seen = self._model.forward(tokens, at, visits)
        faults = seen.faults()
        self.broken |= {one: faults[tap_of(one)] for one in taps if tap_of(one) in faults}
        whole = {tap: _joined(parts) for tap, parts in kept.items() if tap not in self.broken}
        for row, (need, capture) in enumerate(zip(wanted, held, strict=True)):
            for tap in need.taps & whole.keys():
                capture.taps[tap] = whole[tap][row].clone()
            for column, read in enumerate(reads):
                if read in need.reads:
                    capture.logits[read] = logits[row, column].clone()

    def _shrink(self, *, keep: Collection[Prompt]) -> None:
        """Let go of what was used longest ago until the budget holds, but for the prompts in `keep`."""
        size_bytes = sum(capture.size_bytes for capture in self._held.values())
        for prompt in [prompt for prompt in self._held if prompt not in keep]:
            if size_bytes <= self.budget_bytes:
                break
            size_bytes -= self._held.pop(prompt).size_bytes


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


def _keeper(
    kept: dict[Tap | Region, list[Tensor]],
    broken: dict[Tap | Region, SwapyardError],
    place: Tap | Region,
    shape: torch.Size,
) -> Visit:
    """Keeps what is at `place`, [B, P, W] of a tap, in runs of `shape` [B, T, …], one part a call."""

    def keep(tensor: Tensor, call: int) -> None:
        try:
            values = (
                place.read(tensor)
                if isinstance(place, Region)
                else window_of(tensor, place, call, shape[0], shape[1]).values
            )
        except SwapyardError as error:
            broken[place] = error
        else:
            # A module further on may write into this tensor: only a copy stays what it was.
            kept.setdefault(place, []).append(values.clone())

    return keep


def _joined(parts: list[Tensor]) -> Tensor:
    """The steps of a run side by side; what came whole is not copied once more."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _union(sets: Iterable[set[_T]]) -> set[_T]:
    return set().union(*sets)
