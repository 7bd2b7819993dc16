"""One fit on one model: from pairs to coordinates or vectors. `docs/fits.md` says what each method does.

Shapes: B rows of a forward, T tokens, V vocabulary or classes, W width of a tap, C columns of a place, D
width of one head (or of the place), n tokens of one example, N activations.
"""

__all__ = ["fit"]

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from workers.autoencoders.kinds import Kind
from workers.autoencoders.loading import load_autoencoder
from workers.autoencoders.weights import digest_of
from workers.change.edits import Edits
from workers.change.features import SparseAutoencoder
from workers.change.jobs import Change, Step, zipped
from workers.change.regions import Region
from workers.change.subspaces import Subspace
from workers.change.values import Kept, Taken
from workers.engine.captures import Captures, Need, stacked
from workers.errors import RunError, StudyError
from workers.fits.fitted import Fitted, Report
from workers.fits.spec import Example, FitSpec
from workers.fits.training import Trained, accuracy, starting_space, train
from workers.fits.vectors import class_directions, difference, mean_by_position, ordered_classes, principal
from workers.model.hooks import Tap
from workers.model.loading import LoadedModel
from workers.vocabulary import Prompt, Vectors

_CAPTURE_BYTES = 256 * 2**20
_MOST_TOKENS = 4096
"""Rows × tokens of one forward, at most."""
_WITHOUT_PAIRS = ("random_rotation", "sae")
_CHUNK = 64
"""Pairs whose runs are held at once where each is looked at once."""


def fit(
    spec: FitSpec,
    model: LoadedModel,
    examples: Sequence[Example],
    held_out: Sequence[Example] = (),
    tick: Callable[[int], None] = lambda step: None,
) -> Fitted:
    """Make a fit. The same spec, model and examples give the same numbers on the same machine.

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
    started = time.perf_counter()
    # Whatever mode the caller is in: what is made here is trained, or kept.
    with torch.inference_mode(False):
        made = _METHODS[spec.method](spec, _Place(spec, model, tick), examples, held_out)
    num_pairs = 0 if spec.method in _WITHOUT_PAIRS else len(examples)
    report = replace(made.report, num_pairs=num_pairs, seconds=time.perf_counter() - started)
    return replace(made, report=report)


class _Place:
    """The place of a fit in a model, and what runs hold there."""

    def __init__(self, spec: FitSpec, model: LoadedModel, tick: Callable[[int], None]) -> None:
        self.model = model
        self.tick = tick
        """Is told of each step."""
        # Where a fit is used, its place is changed; here it may only be read.
        self.target = model.target(spec.site, spec.layer, spec.heads, None, changes=False)
        self._num_heads = 1 if spec.heads is None else len(spec.heads)
        self._captures = Captures(model, budget_bytes=_CAPTURE_BYTES)

    def head_width(self, examples: Sequence[Example]) -> int:
        """D: of the place, or of one of its heads."""
        prompt = examples[0].pair.tokens["base"]
        self.prepare([prompt])
        return self._columns(self.held(prompt, self.target.tap).values).shape[-1] // self._num_heads

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Run what was not run yet.

        Raises:
            ModelError: there is nothing to read at the place; or whatever a run failed of.
        """
        needs = {prompt: Need(taps={self.target.tap}) for prompt in prompts}
        failed = self._captures.prepare(needs, max_tokens=_MOST_TOKENS)
        for error in (*self._captures.broken.values(), *failed.values()):
            raise error

    def held(self, run: Hashable, tap: Tap | Region) -> Kept:
        """What a run that was prepared holds at the place's tap; see `workers.change.values.Held`."""
        assert isinstance(run, tuple | Vectors) and isinstance(tap, Tap)
        return self._captures[run].kept(tap)

    def activations(self, examples: Sequence[Example], run: str) -> list[Tensor]:
        """What `run` holds at the tokens of each example: [n, C], float32 in main memory."""
        rows: list[Tensor] = []
        for start in range(0, len(examples), _CHUNK):
            chunk = examples[start : start + _CHUNK]
            self.prepare([example.pair.tokens[run] for example in chunk])
            rows += [self._taken(example, run) for example in chunk]
        return rows

    def _taken(self, example: Example, run: str) -> Tensor:
        """[n, C]."""
        prompt = example.pair.tokens[run]
        taken = Taken(prompt, example.tokens[run], len(prompt))
        return self._columns(taken.rows(self.held, self.target.tap, is_pooled=False)).float().cpu()

    def by_head(self, rows: Tensor) -> Tensor:
        """[N, C] as [N · heads, D]."""
        return rows.reshape(-1, rows.shape[-1] // self._num_heads)

    def _columns(self, rows: Tensor) -> Tensor:
        return rows[:, self.target.columns(rows.shape[-1], rows.device)]


class _Interchanges:
    """The examples as interchanges at a place, in coordinates that are given with each call."""

    def __init__(self, spec: FitSpec, place: _Place, examples: Sequence[Example]) -> None:
        self._place = place
        self._examples = examples
        self._run = spec.of or "source"
        self.labels = [example.pair.label_ids for example in examples]

    def logits(self, rows: Sequence[int], space: Subspace) -> Iterator[tuple[Sequence[int], Tensor]]:
        """As `workers.fits.training.Examples` says."""
        by_length: dict[int, list[int]] = {}
        for row in rows:
            by_length.setdefault(len(self._examples[row].pair.tokens["base"]), []).append(row)
        for length, alike in by_length.items():
            size = max(1, _MOST_TOKENS // length)
            for start in range(0, len(alike), size):
                part = alike[start : start + size]
                yield part, self._forward([self._examples[row] for row in part], length, space)

    def _forward(self, examples: Sequence[Example], length: int, space: Subspace) -> Tensor:
        """The logits [B, V] at the examples' reads after the interchange."""
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
        return Change(step, tokens, Taken(prompt, origin, len(prompt)))


_Method = Callable[[FitSpec, _Place, Sequence[Example], Sequence[Example]], Fitted]


def _trained(
    spec: FitSpec, place: _Place, examples: Sequence[Example], held_out: Sequence[Example]
) -> Fitted:
    space = starting_space(spec, place.head_width(examples)).to(place.model.device)
    with torch.enable_grad():
        done: Trained = train(space, spec, _Interchanges(spec, place, examples), place.tick)
    report = Report(
        num_steps=spec.num_steps or 0,
        loss=done.loss,
        num_parameters=done.num_parameters,
        num_held_out=len(held_out),
        held_out_iia=accuracy(space, _Interchanges(spec, place, held_out), spec.batch_size or 1),
    )
    return Fitted(content=space, report=report)


def _random_rotation(
    spec: FitSpec, place: _Place, examples: Sequence[Example], held_out: Sequence[Example]
) -> Fitted:
    return Fitted(content=starting_space(spec, place.head_width(examples)))


def _sae(spec: FitSpec, place: _Place, examples: Sequence[Example], held_out: Sequence[Example]) -> Fitted:
    assert spec.path is not None
    file = Path(spec.path)
    if digest_of(file) != spec.sha256:
        raise StudyError(f"{file} is not the file that the study was planned with; plan the study anew")
    # What a config beside the file says is in the plan, and is not read again.
    kind = None if spec.kind is None else Kind.from_json(spec.kind)
    space = SparseAutoencoder(**load_autoencoder(file, kind), centered=spec.centered)
    width = place.head_width(examples)
    if space.width != width:
        raise StudyError(
            f"{spec.path} is for {space.width} dimensions, and the place has {width}; name its own place"
        )
    return Fitted(content=space)


def _pca(spec: FitSpec, place: _Place, examples: Sequence[Example], held_out: Sequence[Example]) -> Fitted:
    runs = ["base", "source"] if spec.of is None else [spec.of]
    rows = [row for run in runs for row in place.activations([e for e in examples if run in e.tokens], run)]
    space, left_out = principal(place.by_head(torch.cat(rows)), spec.rank or 1)
    report = Report(loss=left_out, num_parameters=space.components.numel())
    return Fitted(content=space, report=report)


def _mean(spec: FitSpec, place: _Place, examples: Sequence[Example], held_out: Sequence[Example]) -> Fitted:
    run = spec.of or "base"
    rows = torch.cat(place.activations(examples, run))
    tokens = [token for example in examples for token in example.tokens[run]]
    vector = mean_by_position(rows, tokens) if spec.by_position else rows.double().mean(0).float()
    return Fitted(content=vector, report=Report(num_parameters=vector.numel()))


def _mean_difference(
    spec: FitSpec, place: _Place, examples: Sequence[Example], held_out: Sequence[Example]
) -> Fitted:
    vector = difference(*_sides(place, examples))
    return Fitted(content=vector, report=Report(num_parameters=vector.numel()))


def _probe(spec: FitSpec, place: _Place, examples: Sequence[Example], held_out: Sequence[Example]) -> Fitted:
    classes = _classes(examples)
    if any(None in of_run for of_run in classes.values()):
        raise RunError("a probe needs the columns base_class and source_class in every pair")
    rows: list[Tensor] = []
    names: list[str] = []
    for run, of_run in classes.items():
        for found, name in zip(place.activations(examples, run), of_run, strict=True):
            rows.append(place.by_head(found))
            names += [str(name)] * len(rows[-1])
    space, loss = class_directions(torch.cat(rows), names)
    report = Report(loss=loss, num_parameters=space.components.numel())
    return Fitted(content=space, report=report)


def _classes(examples: Sequence[Example]) -> dict[str, list[str | None]]:
    """For each of the two runs the class of each example."""
    return {
        "base": [example.classes[0] for example in examples],
        "source": [example.classes[1] for example in examples],
    }


def _sides(place: _Place, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """The activations [N, C] that a difference leads to, and those that it leads away from."""
    classes = _classes(examples)
    rows = {run: place.activations(examples, run) for run in classes}
    if not any(name for of_run in classes.values() for name in of_run):
        return torch.cat(rows["source"]), torch.cat(rows["base"])
    low, high = ordered_classes(classes["base"], classes["source"])
    found: dict[str, list[Tensor]] = {low: [], high: []}
    for run, of_run in classes.items():
        for row, name in zip(rows[run], of_run, strict=True):
            found[str(name)].append(row)
    return torch.cat(found[high]), torch.cat(found[low])


_METHODS: Mapping[str, _Method] = MappingProxyType(
    {
        **dict.fromkeys(("das", "boundless", "mask"), _trained),
        "mean": _mean,
        "mean_difference": _mean_difference,
        "pca": _pca,
        "probe": _probe,
        "random_rotation": _random_rotation,
        "sae": _sae,
    }
)
