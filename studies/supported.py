"""What this version runs, of all that the language can say."""

__all__ = ["check_supported"]

from collections.abc import Iterator
from typing import Any

from studies.blocks import Block, is_source
from studies.fields import PLANNED_SITES
from studies.forms import parse_span, parse_subspace, references
from studies.models import ModelSpec
from studies.plots import Contains
from studies.scope import names_of, values_of, written
from studies.spec import Study
from studies.tasks import find_task
from workers.errors import NotYetError
from workers.vocabulary import OPERATIONS

_METRICS_TO_COME = ("generated",)
_RUNS = ("base", "zero")


def check_supported(study: Study) -> None:
    """Accept a study that this version can run.

    Raises:
        NotYetError: it uses a capability that is not there yet; names the capability and where.
    """
    for where, what in _not_yet(study):
        raise NotYetError(f"{study.study}: {where}: {what} not there yet in this version")
    for task in study.all_tasks():
        find_task(task.name)


def _not_yet(study: Study) -> Iterator[tuple[str, str]]:
    """Where, and which capability, in the words of the sentence "… not there yet"."""
    for key, what in (
        ("train", "training models is"),
        ("generate", "generation is"),
        ("alignment", "alignments with a causal model are"),
    ):
        if getattr(study, key) is not None:
            yield key, what
    if study.label_tokens == "all":
        yield "label_tokens", "scoring all tokens of a label is"
    for metric in study.metrics or ():
        if isinstance(metric, Contains) or metric in _METRICS_TO_COME:
            yield "metrics", f"the metric {metric if isinstance(metric, str) else 'contains'} is"
    for model in study.lanes():
        yield from _model(model)
    for block in study.blocks():
        yield from ((f"sweep, {block.name}: {where}", what) for where, what in _block(block, study))
    for name in study.fits or {}:
        yield f"fits.{name}", "fits are"


def _model(model: ModelSpec) -> Iterator[tuple[str, str]]:
    scheme = model.ref.partition(":")[0]
    if scheme == "zoo":
        yield "model", f"the built-in model {model.ref!r} is"
    if scheme == "artifact":
        yield "model", f"the artifact {model.ref!r} is"
    if model.chat:
        yield "model", "chat templates are"


def _block(block: Block, study: Study) -> Iterator[tuple[str, str]]:
    if block.variable is not None or block.variables is not None:
        yield "variables", "variables of a causal model are"
    if block.step is not None or block.steps is not None:
        yield "steps", "steps of a generation are"
    if isinstance(block.read, tuple):
        yield "read", "reading in several places at once is"
    if isinstance(block.read, str):
        yield from _read("read", block.read)
    for read in block.reads or ():
        yield from _read("reads", read)
    if block.runs:
        yield "runs", "values from other intervened runs are"
    for unit in block.units if block.units is not None else (block,):
        for key, value in written(unit):
            # A whole value is one reference, or has none: then its own text says what is asked for.
            for item in values_of(block, value):
                yield from _value(".".join(map(str, key)), item, study)
    for singular in ("site", "subspace", "intervention"):
        if block.units is None and singular in names_of(block):
            for item in names_of(block)[singular]:
                yield from _value(singular, item, study)


def _read(where: str, read: Any) -> Iterator[tuple[str, str]]:
    """An output of the model is a name alone; a token of a span has a part."""
    span = parse_span(read) if isinstance(read, str) and not references(read) else None
    if span is not None and span[1] is None:
        yield where, f"reading the model's output {read!r} is"


def _value(key: str, value: Any, study: Study) -> Iterator[tuple[str, str]]:
    if isinstance(value, tuple):
        for item in value:
            yield from _value(key, item, study)
    elif key == "site" and value in PLANNED_SITES:
        yield key, f"the site {value!r} of recurrent models is"
    elif key == "subspace" and isinstance(value, str) and value != "all":
        parsed = parse_subspace(value)
        if parsed and parsed[0]:
            yield key, f"the coordinates of the fit {parsed[0]!r} are"
    elif key == "intervention" and value not in OPERATIONS:
        yield key, f"the intervention {value!r} is"
    elif key == "from" and isinstance(value, str) and not (value in _RUNS or is_source(value)):
        yield key, f"values from {value!r} are"
    elif key in ("from.noise", "from.fit"):
        yield "from", f"values from {'noise' if key == 'from.noise' else 'a fit'} are"
