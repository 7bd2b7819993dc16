"""Fits of studies: from pairs of token ids to coordinates or vectors, through the engine's activation cache.

`workers.fits.methods` has the methods; `docs/fits.md` says what each does.

Shapes: B rows of a forward, V vocabulary or classes, C columns of a place, n tokens of one example.
"""

__all__ = ["fit"]

from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from workers.engine.activation_cache import ActivationCache, PromptNeed, stacked
from workers.errors import RunError
from workers.fits.fitted import Example, FitSpec, Fitted
from workers.fits.methods import FitData, make
from workers.intervene.edits import Edits
from workers.intervene.jobs import Change, Step, zipped
from workers.intervene.regions import Region
from workers.intervene.subspaces import Subspace
from workers.intervene.values import CachedActivation, FromRun
from workers.model.hooks import Tap
from workers.model.loading import LoadedModel
from workers.vocabulary import Prompt, Vectors

_CAPTURE_BYTES = 256 * 2**20
_MOST_TOKENS = 4096
"""Rows × tokens of one forward, at most."""
_CHUNK = 64
"""Pairs whose runs are held at once where each is looked at once."""


def fit(
    spec: FitSpec,
    model: LoadedModel,
    examples: Sequence[Example],
    held_out: Sequence[Example] = (),
    tick: Callable[[int], None] = lambda step: None,
) -> Fitted:
    """Make a fit of a study. The same spec, model and examples give the same numbers on the same machine.

    Args:
        spec: the method, the place, and the settings.
        model: which model; it stays as it is.
        examples: what it is made from; a rotation that is drawn, and weights that are read, take
            one, to see how wide the place is.
        held_out: what a trained method is measured on.
        tick: is called after each step of a trained method with how many are done.

    Raises:
        StudyError: a rank that the place does not have, or weights that are not there or not for it.
        ModelError: the model has no such place.
        RunError: there are no examples, or they are not what the method needs.
    """
    if not examples:
        raise RunError(f"a fit by {spec.method} needs a pair, and there is none")
    place = _CachedPlace(spec, model)
    return make(spec, _PairExamples(place, examples), _PairExamples(place, held_out), tick)


class _CachedPlace:
    """Place of a fit in a model, and the activations there, cached by prompt."""

    def __init__(self, spec: FitSpec, model: LoadedModel) -> None:
        self.model = model
        # Where a fit is used, its place is changed; here it may only be read.
        self.target = model.target(spec.site, spec.layer, spec.heads, None, changes=False)
        self.num_heads = 1 if spec.heads is None else len(spec.heads)
        self._cache = ActivationCache(model, budget_bytes=_CAPTURE_BYTES)

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Run the prompts that are not cached yet.

        Raises:
            ModelError: there is nothing to read at the place; or whatever a run failed of.
        """
        needs = {prompt: PromptNeed(taps={self.target.tap}) for prompt in prompts}
        failed = self._cache.prepare(needs, max_tokens=_MOST_TOKENS)
        for error in (*self._cache.broken.values(), *failed.values()):
            raise error

    def held(self, run: Hashable, tap: Tap | Region) -> CachedActivation:
        """Cached activation of a prompt at the place's tap: a `workers.intervene.values.ActivationLookup`."""
        assert isinstance(run, tuple | Vectors) and isinstance(tap, Tap)
        return self._cache[run].kept(tap)

    def columns(self, rows: Tensor) -> Tensor:
        """Columns [N, C] of the place in rows of its tap."""
        return rows[:, self.target.columns(rows.shape[-1], rows.device)]


class _PairExamples(FitData):
    """Pairs of a study as the examples of a fit."""

    def __init__(self, place: _CachedPlace, examples: Sequence[Example]) -> None:
        self._place = place
        self._examples = examples
        self.device = place.model.device
        self.num_heads = place.num_heads

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def runs(self) -> Sequence[str]:
        return ("base", "source")

    def having(self, run: str) -> "_PairExamples":
        return _PairExamples(self._place, [one for one in self._examples if run in one.tokens])

    def head_width(self) -> int:
        prompt = self._examples[0].pair.tokens["base"]
        self._place.prepare([prompt])
        whole = self._place.held(prompt, self._place.target.tap).values
        return self._place.columns(whole).shape[-1] // self.num_heads

    def activations(self, run: str) -> list[Tensor]:
        rows: list[Tensor] = []
        for start in range(0, len(self._examples), _CHUNK):
            chunk = self._examples[start : start + _CHUNK]
            self._place.prepare([example.pair.tokens[run] for example in chunk])
            rows += [self._taken(example, run) for example in chunk]
        return rows

    def _taken(self, example: Example, run: str) -> Tensor:
        """Activations of one example [n, C]."""
        prompt = example.pair.tokens[run]
        taken = FromRun(prompt, example.tokens[run], len(prompt))
        rows = taken.rows(self._place.held, self._place.target.tap, is_pooled=False)
        return self._place.columns(rows).float().cpu()

    def interchanges(self, run: str) -> "_PairInterchanges":
        return _PairInterchanges(self._place, self._examples, run)

    def classes(self) -> dict[str, list[str | None]]:
        return {
            "base": [example.classes[0] for example in self._examples],
            "source": [example.classes[1] for example in self._examples],
        }

    def positions(self, run: str) -> list[int]:
        return [token for example in self._examples for token in example.tokens[run]]


class _PairInterchanges:
    """Pairs of a study as interchanges at a place; see `workers.fits.training.Interchanges`."""

    def __init__(self, place: _CachedPlace, examples: Sequence[Example], run: str) -> None:
        self._place = place
        self._examples = examples
        self._run = run
        self.labels = [example.pair.label_ids for example in examples]

    def logits(self, rows: Sequence[int], space: Subspace) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Logits after the interchange, bases of one length together."""
        by_length: dict[int, list[int]] = {}
        for row in rows:
            by_length.setdefault(len(self._examples[row].pair.tokens["base"]), []).append(row)
        for length, alike in by_length.items():
            size = max(1, _MOST_TOKENS // length)
            for start in range(0, len(alike), size):
                part = alike[start : start + size]
                yield part, self._forward([self._examples[row] for row in part], length, space)

    def _forward(self, examples: Sequence[Example], length: int, space: Subspace) -> Tensor:
        """Logits [B, V] at the examples' reads after the interchange."""
        model, target = self._place.model, self._place.target
        self._place.prepare([example.pair.tokens[self._run] for example in examples])
        step = Step(place=target, operation="vanilla", origin=target, subspace=space)
        changes = [[self._change(example, step)] for example in examples]
        edits = Edits(changes, length, self._place.held)
        tokens = stacked([example.pair.tokens["base"] for example in examples], model.device)
        reads = torch.tensor([[example.read] for example in examples], device=model.device)
        with parametrize.cached():
            logits, seen = model.forward(tokens, reads, edits.visits(), gradients=True)
        for error in edits.failures(seen).values():
            raise error
        return logits[:, 0]

    def _change(self, example: Example, step: Step) -> Change:
        prompt = example.pair.tokens[self._run]
        tokens, origin = zipped(example.tokens["base"], example.tokens[self._run], self._run)
        return Change(step, tokens, FromRun(prompt, origin, len(prompt)))
