"""Inputs from given pairs: token ids or vectors, spans, label ids, and the reasons against some."""

__all__ = ["Input", "Prepared", "prepare"]

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from orchestrator.plan.baseline_runs import BaselineScorer
from orchestrator.plan.pair_columns import Row
from orchestrator.plan.pair_remarks import NOT_DRAWN, NOT_READ, left_out
from orchestrator.plan.prompts import Encoder, Input
from orchestrator.plan.tables import Lane
from studies.language.trained import READ
from studies.pairs.tokens import Tokenizer
from workers.errors import StudyError
from workers.model.facts import ModelFacts
from workers.vocabulary import CleanRun, Prompt, Vectors

CHUNK = 1024
"""Prompts that are run at once while a filter looks for enough pairs."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """All inputs of one lane, in the order of the given pairs."""

    inputs: Sequence[Input]
    prompts: Mapping[str, int]
    """Number of distinct base prompts by fate: ``usable``, or the fault that stands against them."""
    num_long: int = 0
    """Prompts of more tokens than the model was trained for, which it can run."""

    @property
    def kept(self) -> Iterator[Input]:
        """The inputs that jobs are made of."""
        return (i for i in self.inputs if i.reason is None)


def prepare(
    rows: Sequence[Row],
    lane: Lane,
    facts: ModelFacts,
    tokenizer: Tokenizer | None,
    scorer: BaselineScorer | None,
    *,
    filter: str | None,
    aligned: bool,
    num_pairs: int | None,
    label_tokens: str | None,
    labels_differ: bool = False,
) -> Prepared:
    """Tokenise `rows` and keep those that pass the filter, at most `num_pairs`, in their order.

    Without a `tokenizer` prompts are token ids or vectors, and labels are numbers. Without a `scorer`
    whatever only the model can tell is taken to pass. With `labels_differ` a pair whose label is its base
    label is left out.

    Raises:
        StudyError: no pair is left; or some prompts are ids and others vectors.
        MissingRunsError: the filter needs the model, and `scorer` may not load it.
    """
    encoder = Encoder(facts, tokenizer, first=label_tokens == "first", labels_differ=labels_differ)
    inputs = [
        encoder.encode(number, row)
        if row.get(READ) == lane.spec.options.get(READ)
        else Input(given=number, reason=NOT_READ)
        for number, row in enumerate(rows)
    ]
    _refuse_mixed(inputs, facts)
    if aligned:
        _drop_unaligned(inputs)
    if filter is not None and scorer is not None:
        _filter(inputs, lane, scorer, num_pairs)
    if num_pairs is not None:
        for extra in islice((i for i in inputs if i.reason is None), num_pairs, None):
            extra.reason = NOT_DRAWN
    if all(i.reason is not None for i in inputs):
        told = "; ".join(one.text for one in left_out((i.given, i.reason) for i in inputs))
        raise StudyError(f"no pair is left of {len(inputs):,} for {lane.spec.ref}: {told}")
    return Prepared(inputs=inputs, prompts=_fates(inputs), num_long=encoder.num_long)


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


def _filter(inputs: Sequence[Input], lane: Lane, scorer: BaselineScorer, num_pairs: int | None) -> None:
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
    """Count the distinct base prompts: those that some kept pair has, and the others by their first fault."""
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
    "base": "cannot be used",
    "base_label": "have an answer that cannot be used",
    "base's answer": "are answered otherwise by the model",
    "length": "are longer or shorter than the others",
    "label": "have a label that cannot be used",
    "same": "have a label that is their own answer",
    "source": "have no source that can be used",
    "source_label": "have no source with an answer that can be used",
    "source's answer": "have no source that the model answers right",
}
"""Fault of a base prompt → its words for people; the first that one of its pairs has counts. ``None``: a pair
of it is kept."""
