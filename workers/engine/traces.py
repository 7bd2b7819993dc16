"""Clean runs with what they hold at taps, and how the answer would change with it.

Shapes: B prompts, T tokens, E width of an input vector, P positions of a tap, W width, V vocabulary.
"""

__all__ = ["Trace", "difference", "trace", "widths"]

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.engine.scoring import Labels
from workers.errors import ModelError
from workers.model.hooks import Tap, Visit
from workers.model.loading import LoadedModel
from workers.model.windows import window_of


@dataclass(slots=True)
class Trace:
    """What was kept of the clean runs of some prompts."""

    values: dict[Tap, Tensor]
    """[B, P, W] at each tap, in the model's dtype."""
    gradients: dict[Tap, Tensor] = field(default_factory=dict)
    """Of each prompt's answer with respect to its values, [B, P, W], float32."""
    answers: Tensor | None = None
    """[B], float32; NaN where a prompt has no label."""
    broken: Mapping[Tap, ModelError] = field(default_factory=dict)
    """Taps with nothing to read by position, and why."""

    def at(self, tap: Tap) -> Tensor:
        """The values at a tap [B, P, W].

        Raises:
            ModelError: there are none.
        """
        if tap in self.broken:
            raise self.broken[tap]
        return self.values[tap]


def difference(logits: Tensor, labels: Labels, base_labels: Labels) -> Tensor:
    """The answer [B] in logits [B, V]: what the label gets less what the base label gets.

    Of a prompt with one of the two labels it is what that one gets (negative for the base label), with
    neither NaN. A label's logit is the logsumexp over its ids, as in `workers.engine.scoring.score`.
    """
    answer = torch.zeros(len(logits), device=logits.device)
    for sign, which in ((1.0, labels), (-1.0, base_labels)):
        rows = which.given.any(-1).nonzero()[:, 0]
        own = logits[rows].float().gather(-1, which.ids[rows])
        scores = own.masked_fill(~which.given[rows], -torch.inf).logsumexp(-1)
        answer = answer.index_add(0, rows, sign * scores)
    is_answered = labels.given.any(-1) | base_labels.given.any(-1)
    return answer.masked_fill(~is_answered, torch.nan)


def trace(
    model: LoadedModel,
    prompts: Tensor,
    taps: Collection[Tap],
    *,
    reads: Tensor | None = None,
    labels: tuple[Labels, Labels] | None = None,
) -> Trace:
    """One forward of `prompts` [B, T] or [B, T, E]; with labels one backward, too.

    Args:
        model: which one.
        prompts: what is run.
        taps: where values are kept, and gradients of each prompt's `difference`.
        reads: [B, 1], the token at which each prompt's answer is read; needed with `labels`.
        labels: labels and base labels of each prompt.
    """
    watch = _Watch(prompts.shape[0], prompts.shape[1], with_gradients=labels is not None)
    visits = [(tap, watch.visit(tap)) for tap in sorted(taps, key=str)]
    at = torch.zeros(len(prompts), 1, dtype=torch.long, device=prompts.device) if reads is None else reads
    if labels is None:
        _, seen = model.forward(prompts, at, visits)
        return Trace(watch.values(), broken=watch.broken | seen.faults())
    with torch.inference_mode(False), torch.enable_grad():
        logits, seen = model.forward(prompts, at, visits, gradients=True)
        answers = difference(logits[:, 0], *labels)
        found = Trace(watch.values(), broken=watch.broken | seen.faults(), answers=answers.detach())
        found.gradients = watch.gradients(answers)
    return found


def widths(model: LoadedModel, prompt: Tensor, taps: Collection[Tap]) -> dict[Tap, int]:
    """Numbers that each tap holds for one position, seen in a run of `prompt` [1, T] or [1, T, E]."""
    found = trace(model, prompt, taps)
    return {tap: values.shape[-1] for tap, values in found.values.items()}


class _Watch:
    """Keeps what is at taps in one forward of `num_rows` × `num_tokens`."""

    def __init__(self, num_rows: int, num_tokens: int, *, with_gradients: bool) -> None:
        self._shape = (num_rows, num_tokens)
        self._with_gradients = with_gradients
        self._kept: dict[Tap, list[Tensor]] = {}
        self._probes: dict[Tap, list[Tensor]] = {}
        """Zeros that were added to what is there, one for each call: their gradients are its own."""
        self.broken: dict[Tap, ModelError] = {}

    def visit(self, tap: Tap) -> Visit:
        def keep(tensor: Tensor, call: int) -> Tensor | None:
            try:
                window = window_of(tensor, tap, call, *self._shape)
            except ModelError as error:
                self.broken[tap] = error
                return None
            # A module further on may write into this tensor: only a copy stays what it was.
            self._kept.setdefault(tap, []).append(window.values.detach().clone())
            if not self._with_gradients:
                return None
            probe = torch.zeros_like(tensor, requires_grad=True)
            self._probes.setdefault(tap, []).append(probe)
            return tensor + probe

        return keep

    def values(self) -> dict[Tap, Tensor]:
        """The steps of a run side by side; what came whole is not copied once more."""
        kept, self._kept = self._kept, {}
        return {tap: parts[0] if len(parts) == 1 else torch.cat(parts, 1) for tap, parts in kept.items()}

    def gradients(self, answers: Tensor) -> dict[Tap, Tensor]:
        """Of each prompt's answer (of its own alone: prompts do not meet) at every tap [B, P, W]."""
        probes = [(tap, probe) for tap, parts in self._probes.items() for probe in parts]
        if not probes:
            return {}
        # Where nothing that is kept reaches the answer, the sum alone would have no gradient at all.
        total = answers.nan_to_num().sum() + sum(0.0 * probe.sum() for _, probe in probes)
        found = torch.autograd.grad(total, [probe for _, probe in probes])
        parts: dict[Tap, list[Tensor]] = {}
        for (tap, probe), gradient in zip(probes, found, strict=True):
            shaped = gradient if probe.dim() == 3 else gradient.reshape(len(probe), 1, -1)
            parts.setdefault(tap, []).append(shaped.float())
        return {tap: torch.cat(steps, 1) for tap, steps in parts.items()}
