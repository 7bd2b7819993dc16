"""From given pairs to inputs: token ids, spans, label ids; which pairs are kept, and why others are not."""

__all__ = ["Input", "Prepared", "prepare"]

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from orchestrator.plan.clean import Scorer
from orchestrator.plan.tables import Lane
from studies.blocks import is_source
from studies.tokens import Encoding, TokenError, Tokenizer, span_tokens
from workers.errors import StudyError
from workers.vocabulary import CleanRun, Span

NOT_DRAWN = "enough pairs without it"
CHUNK = 1024
"""Prompts that are run at once while a filter looks for enough pairs."""


@dataclass(slots=True)
class Input:
    """One given pair under one model."""

    given: int
    tokens: dict[str, tuple[int, ...]] = field(default_factory=dict)
    spans: dict[str, dict[str, Span]] = field(default_factory=dict)
    label_ids: tuple[int, ...] = ()
    base_label_ids: tuple[int, ...] = ()
    source_label_ids: tuple[int, ...] = ()
    reason: str | None = None
    """Why the pair is not kept; None for one that is."""
    fault: str | None = None
    """What the reason is about, in a word or two, and whose: the base's, or another run's."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """All inputs of one lane, in the order of the given pairs."""

    inputs: Sequence[Input]
    prompts: Mapping[str, int]
    """How many distinct base prompts ended in what: ``kept`` or the reason against them."""

    @property
    def kept(self) -> Iterator[Input]:
        """The inputs that jobs are made of."""
        return (i for i in self.inputs if i.reason is None)


def prepare(
    rows: Sequence[Mapping[str, Any]],
    lane: Lane,
    tokenizer: Tokenizer,
    scorer: Scorer | None,
    *,
    filter: str | None,
    aligned: bool,
    num_pairs: int | None,
    label_tokens: str | None,
) -> Prepared:
    """Tokenise `rows` and keep those that pass the filter, at most `num_pairs`, in their order.

    Without a `scorer` whatever only the model can tell is taken to pass.

    Raises:
        StudyError: no pair is left, or one cannot be used and there is no filter to drop it.
        MissingRunsError: the filter needs the model, and `scorer` may not load it.
    """
    encoder = _Encoder(tokenizer, first=label_tokens == "first")
    inputs = [encoder.encode(number, row) for number, row in enumerate(rows)]
    if aligned:
        _drop_unaligned(inputs)
    if filter is None:
        _refuse_broken(inputs, rows)
    elif scorer is not None:
        _filter(inputs, lane, scorer, num_pairs)
    if num_pairs is not None:
        for extra in islice((i for i in inputs if i.reason is None), num_pairs, None):
            extra.reason = NOT_DRAWN
    if all(i.reason is not None for i in inputs):
        reasons = Counter(i.reason for i in inputs).most_common(4)
        told = "; ".join(f"{count:,} × {reason}" for reason, count in reasons)
        raise StudyError(f"no pair is left of {len(inputs):,} for {lane.spec.ref}: {told}")
    return Prepared(inputs=inputs, prompts=_fates(inputs))


class _Encoder:
    """Turns given pairs into inputs; each text is tokenised once."""

    def __init__(self, tokenizer: Tokenizer, *, first: bool) -> None:
        self._tokenizer = tokenizer
        self._first = first
        self._encodings: dict[str, Encoding] = {}
        self._labels: dict[tuple[str, str], tuple[int, ...] | TokenError] = {}

    def encode(self, number: int, row: Mapping[str, Any]) -> Input:
        """One pair; what cannot be tokenised becomes its reason."""
        made = Input(given=number)
        fault = None
        try:
            for run in runs_of(row):
                fault = "base" if run == "base" else "source"
                made.tokens[run], made.spans[run] = self._encode_run(row, run)
            fault = "base_label"
            made.base_label_ids = self._label_ids(row.get("base"), row.get("base_label"))
            fault = "source_label"
            if "source" in made.tokens:
                made.source_label_ids = self._label_ids(row.get("source"), row.get("source_label"))
            fault = "label"
            made.label_ids = self._label_ids(row.get("base"), row.get("label"))
        except TokenError as error:
            made.reason, made.fault = f"{fault}: {error}", fault
        return made

    def _encode_run(self, row: Mapping[str, Any], run: str) -> tuple[tuple[int, ...], dict[str, Span]]:
        if (ids := row.get(f"{run}_ids")) is not None:
            return tuple(ids), {}
        text = row[run]
        if text not in self._encodings:
            self._encodings[text] = self._tokenizer.encode(text)
        encoding = self._encodings[text]
        if not encoding.ids:
            raise TokenError(f"{text!r} has no token; give a longer prompt")
        prefix = "span." if run == "base" else f"{run}.span."
        spans = {
            name.removeprefix(prefix): span_tokens(text, encoding.offsets, _span(value))
            for name, value in row.items()
            if name.startswith(prefix) and value is not None
        }
        return encoding.ids, spans

    def _label_ids(self, prompt: str | None, label: Any) -> tuple[int, ...]:
        found: dict[int, None] = {}
        for item in label if isinstance(label, list | tuple) else () if label is None else (label,):
            if isinstance(item, int):
                found[item] = None
            elif prompt is None:
                raise TokenError(f"{item!r} is text, but its prompt is given as token ids; give a token id")
            else:
                found |= dict.fromkeys(self._one_label(prompt, item))
        return tuple(found)

    def _one_label(self, prompt: str, label: str) -> tuple[int, ...]:
        key = (prompt, label)
        if key not in self._labels:
            (self._labels[key],) = self._tokenizer.label_ids_all([key], first=self._first)
        known = self._labels[key]
        if isinstance(known, TokenError):
            raise known
        return known


def runs_of(row: Mapping[str, Any]) -> list[str]:
    """The runs that a given pair has: ``base``, and its sources in order."""
    names = {name.removesuffix("_ids") for name, value in row.items() if value is not None}
    return ["base", *sorted((name for name in names if is_source(name)), key=lambda name: (len(name), name))]


def _span(value: Any) -> str | Span:
    return value if isinstance(value, str) else (value[0], value[1])


def _drop_unaligned(inputs: Sequence[Input]) -> None:
    for one in inputs:
        if one.reason is None and len({len(ids) for ids in one.tokens.values()}) > 1:
            one.reason, one.fault = "base and source have unequal numbers of tokens", "length"


def _refuse_broken(inputs: Sequence[Input], rows: Sequence[Mapping[str, Any]]) -> None:
    broken = [one for one in inputs if one.reason is not None]
    if broken:
        raise StudyError(
            f"{len(broken):,} of {len(inputs):,} pairs cannot be used; the first is pair {broken[0].given}"
            f" ({rows[broken[0].given].get('base')!r}): {broken[0].reason}. Or let 'filter: both_correct'"
            " drop such pairs"
        )


def _filter(inputs: Sequence[Input], lane: Lane, scorer: Scorer, num_pairs: int | None) -> None:
    """Keep the pairs whose base and source the model answers right, running each prompt once."""
    said: dict[tuple[int, ...], int] = {}
    waiting = [one for one in inputs if one.reason is None]
    start = num_kept = 0
    while start < len(waiting) and (num_pairs is None or num_kept < num_pairs):
        stop, fresh = start, dict[tuple[int, ...], None]()
        while stop < len(waiting) and len(fresh) < CHUNK:
            fresh |= {ids: None for ids, _, _ in _answers(waiting[stop]) if ids not in said}
            stop += 1
        todo = [CleanRun(ids, len(ids) - 1, (), ()) for ids in fresh]
        if todo:
            predicted = scorer.score(lane, todo)["pred_id"].tolist()
            said |= zip(fresh, predicted, strict=True)
        for one in waiting[start:stop]:
            _judge(one, said)
            num_kept += one.reason is None
        start = stop
    for one in waiting[start:]:
        one.reason = NOT_DRAWN


def _answers(one: Input) -> list[tuple[tuple[int, ...], tuple[int, ...], str]]:
    """Each prompt that the filter is about, with the right answers and whose they are."""
    right = {"base": one.base_label_ids, "source": one.source_label_ids}
    return [(one.tokens[run], ids, run) for run, ids in right.items() if run in one.tokens]


def _judge(one: Input, said: Mapping[tuple[int, ...], int]) -> None:
    for prompt, right, run in _answers(one):
        if said[prompt] not in right:
            one.fault = f"{run}'s answer"
            failed = f"the model does not answer the {run} with its {run}_label"
            one.reason = failed if right else f"there is no {run}_label for the filter to compare with"
            return


def _fates(inputs: Sequence[Input]) -> dict[str, int]:
    """How many distinct base prompts may serve as a base, and what is against the others."""
    faults: dict[tuple[int, ...], set[str | None]] = defaultdict(set)
    for one in inputs:
        faults[one.tokens.get("base", ())].add(one.fault)
    fates = Counter(
        next(fate for fault, fate in _FATES.items() if fault in found) for found in faults.values()
    )
    return dict(fates.most_common())


_FATES = {
    None: "usable",
    "base": "cannot be tokenised",
    "base_label": "have an answer that is not one token",
    "base's answer": "are answered otherwise by the model",
    "length": "are longer or shorter than the others",
    "label": "have a label that is not one token",
    "source": "have no source that can be tokenised",
    "source_label": "have no source with an answer of one token",
    "source's answer": "have no source that the model answers right",
}
"""What stands against a base prompt, the first that applies; ``None`` is that some pair has it."""
