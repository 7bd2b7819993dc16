"""From given pairs to inputs: token ids or vectors, spans, label ids; which are kept, and why others not."""

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
from studies.trained import READ
from workers.errors import StudyError
from workers.facts import ModelFacts
from workers.vocabulary import CleanRun, Prompt, Span, Vectors

NOT_DRAWN = "enough pairs without it"
NOT_READ = "its label is of another output"
CHUNK = 1024
"""Prompts that are run at once while a filter looks for enough pairs."""


@dataclass(slots=True)
class Input:
    """One given pair under one model."""

    given: int
    tokens: dict[str, Prompt] = field(default_factory=dict)
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
    facts: ModelFacts,
    tokenizer: Tokenizer | None,
    scorer: Scorer | None,
    *,
    filter: str | None,
    aligned: bool,
    num_pairs: int | None,
    label_tokens: str | None,
) -> Prepared:
    """Tokenise `rows` and keep those that pass the filter, at most `num_pairs`, in their order.

    Without a `tokenizer` prompts are token ids or vectors, and labels are numbers. Without a `scorer`
    whatever only the model can tell is taken to pass.

    Raises:
        StudyError: no pair is left, or one cannot be used and there is no filter to drop it; or some
            prompts are ids and others vectors.
        MissingRunsError: the filter needs the model, and `scorer` may not load it.
    """
    encoder = _Encoder(facts, tokenizer, first=label_tokens == "first")
    inputs = [
        encoder.encode(number, row)
        if row.get(READ) == lane.spec.options.get(READ)
        else Input(given=number, reason=NOT_READ)
        for number, row in enumerate(rows)
    ]
    _refuse_mixed(inputs, facts)
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

    def __init__(self, facts: ModelFacts, tokenizer: Tokenizer | None, *, first: bool) -> None:
        self._facts = facts
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
            made.base_label_ids = self._label_ids(row, "base", "base_label")
            fault = "source_label"
            if "source" in made.tokens:
                made.source_label_ids = self._label_ids(row, "source", "source_label")
            fault = "label"
            made.label_ids = self._label_ids(row, "base", "label")
        except TokenError as error:
            made.reason, made.fault = f"{fault}: {error}", fault
        return made

    def _encode_run(self, row: Mapping[str, Any], run: str) -> tuple[Prompt, dict[str, Span]]:
        if (vectors := row.get(f"{run}_embeds")) is not None:
            assert isinstance(vectors, Vectors)
            return self._fitting(vectors), {}
        if (ids := row.get(f"{run}_ids")) is not None:
            return self._checked(ids), {}
        text = row[run]
        if self._tokenizer is None:
            raise TokenError(
                f"{text!r} is text, and {self._facts.ref} has no tokenizer; give {run}_ids or {run}_embeds"
            )
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

    def _checked(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Token ids that the model knows."""
        size, name = self._facts.vocab_size, self._facts.ref
        if size is None:
            raise TokenError(f"token ids, and {name} has no vocabulary; give vectors (base_embeds …)")
        if max(ids) >= size:
            raise TokenError(f"token id {max(ids)}: {name} has ids 0 to {size - 1}")
        return tuple(ids)

    def _fitting(self, vectors: Vectors) -> Vectors:
        """Vectors as wide as the model takes them, as far as that is known."""
        (_, given), width = vectors.shape, self._facts.input_width
        if width is not None and given != width:
            raise TokenError(f"vectors of {given} numbers: {self._facts.ref} takes {width} for each token")
        return vectors

    def _label_ids(self, row: Mapping[str, Any], run: str, column: str) -> tuple[int, ...]:
        """The numbers of a label, which stands after the prompt of `run`."""
        label, prompt = row.get(column), row.get(run)
        found: dict[int, None] = {}
        for item in label if isinstance(label, list | tuple) else () if label is None else (label,):
            if isinstance(item, int):
                found[self._answer(item)] = None
            elif prompt is None or self._tokenizer is None:
                what = "the number of a class" if self._facts.num_classes else "a token id"
                raise TokenError(f"{item!r} is text, but its prompt is none; give {what}")
            else:
                found |= dict.fromkeys(self._one_label(self._tokenizer, prompt, item))
        return tuple(found)

    def _answer(self, number: int) -> int:
        if number >= self._facts.num_logits:
            what = "classes" if self._facts.num_classes else "token ids"
            last = self._facts.num_logits - 1
            raise TokenError(f"{number} is no answer; {self._facts.ref} predicts {what} 0 to {last}")
        return number

    def _one_label(self, tokenizer: Tokenizer, prompt: str, label: str) -> tuple[int, ...]:
        key = (prompt, label)
        if key not in self._labels:
            (self._labels[key],) = tokenizer.label_ids_all([key], first=self._first)
        known = self._labels[key]
        if isinstance(known, TokenError):
            raise known
        return known


def runs_of(row: Mapping[str, Any]) -> list[str]:
    """The runs that a given pair has: ``base``, and its sources in order."""
    given = (name for name, value in row.items() if value is not None)
    names = {name.removesuffix("_ids").removesuffix("_embeds") for name in given}
    return ["base", *sorted((name for name in names if is_source(name)), key=lambda name: (len(name), name))]


def _span(value: Any) -> str | Span:
    return value if isinstance(value, str) else (value[0], value[1])


def _drop_unaligned(inputs: Sequence[Input]) -> None:
    for one in inputs:
        if one.reason is None and len({len(ids) for ids in one.tokens.values()}) > 1:
            one.reason, one.fault = "base and source have unequal numbers of tokens", "length"


def _refuse_mixed(inputs: Sequence[Input], facts: ModelFacts) -> None:
    """Prompts of two forms fit into no forward together."""
    prompts = (prompt for one in inputs for prompt in one.tokens.values())
    forms = {f"vectors of {p.shape[1]}" if isinstance(p, Vectors) else "token ids" for p in prompts}
    if len(forms) > 1:
        raise StudyError(
            f"{facts.ref}: the prompts of the pairs are {' and '.join(sorted(forms))}; give all of them in"
            " one form"
        )


def _refuse_broken(inputs: Sequence[Input], rows: Sequence[Mapping[str, Any]]) -> None:
    broken = [one for one in inputs if one.reason not in (None, NOT_READ)]
    if broken:
        first, text = broken[0], rows[broken[0].given].get("base")
        shown = "" if text is None else f" ({text!r})"
        raise StudyError(
            f"{len(broken):,} of {len(inputs):,} pairs cannot be used; the first is pair"
            f" {first.given}{shown}: {first.reason}. Or let 'filter: both_correct' drop such pairs"
        )


def _filter(inputs: Sequence[Input], lane: Lane, scorer: Scorer, num_pairs: int | None) -> None:
    """Keep the pairs whose base and source the model answers right, running each prompt once."""
    said: dict[Prompt, int] = {}
    waiting = [one for one in inputs if one.reason is None]
    start = num_kept = 0
    while start < len(waiting) and (num_pairs is None or num_kept < num_pairs):
        stop, fresh = start, dict[Prompt, None]()
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


def _answers(one: Input) -> list[tuple[Prompt, tuple[int, ...], str]]:
    """Each prompt that the filter is about, with the right answers and whose they are."""
    right = {"base": one.base_label_ids, "source": one.source_label_ids}
    return [(one.tokens[run], ids, run) for run, ids in right.items() if run in one.tokens]


def _judge(one: Input, said: Mapping[Prompt, int]) -> None:
    for prompt, right, run in _answers(one):
        if said[prompt] not in right:
            one.fault = f"{run}'s answer"
            failed = f"the model does not answer the {run} with its {run}_label"
            one.reason = failed if right else f"there is no {run}_label for the filter to compare with"
            return


def _fates(inputs: Sequence[Input]) -> dict[str, int]:
    """How many distinct base prompts may serve as a base, and what is against the others."""
    faults: dict[Prompt, set[str | None]] = defaultdict(set)
    for one in inputs:
        if one.reason != NOT_READ:
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
