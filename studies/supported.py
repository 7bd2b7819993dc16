"""Capabilities of this version, of all that the language can say."""

__all__ = ["check_supported"]

from collections.abc import Iterator
from typing import Any

from studies.blocks import Block
from studies.forms import parse_span, references
from studies.models import ModelSpec
from studies.plots import Contains
from studies.spec import Study
from studies.tasks import find_task
from workers.errors import NotYetError

_METRICS_TO_COME = ("generated",)


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
    """Places and capabilities, in the words of the sentence "… not there yet"."""
    if study.generate is not None:
        yield "generate", "generation is"
    if study.label_tokens == "all":
        yield "label_tokens", "scoring all tokens of a label is"
    for metric in study.metrics or ():
        if isinstance(metric, Contains) or metric in _METRICS_TO_COME:
            yield "metrics", f"the metric {metric if isinstance(metric, str) else 'contains'} is"
    for model in study.lanes():
        yield from _model(model)
    for block in study.blocks():
        is_trained = _is_trained(study, block)
        yield from ((f"sweep, {block.name}: {where}", what) for where, what in _block(block, is_trained))


def _model(model: ModelSpec) -> Iterator[tuple[str, str]]:
    if model.chat:
        yield "model", "chat templates are"


def _is_trained(study: Study, block: Block) -> bool:
    """Whether the block's models are trained: they have outputs that can be read by name."""
    models = [model.ref for model in block.models or (block.model,) if isinstance(model, ModelSpec)]
    return all(ref in (study.train or {}) or ref.startswith("artifact:") for ref in models)


def _block(block: Block, is_trained: bool) -> Iterator[tuple[str, str]]:
    if block.step is not None or block.steps is not None:
        yield "steps", "steps of a generation are"
    if isinstance(block.read, tuple):
        yield "read", "reading in several places at once is"
    if isinstance(block.read, str) and not is_trained:
        yield from _read("read", block.read)
    for read in () if is_trained else block.reads or ():
        yield from _read("reads", read)


def _read(where: str, read: Any) -> Iterator[tuple[str, str]]:
    """An output of the model is a name alone; a token of a span has a part."""
    span = parse_span(read) if isinstance(read, str) and not references(read) else None
    if span is not None and span[1] is None:
        yield where, f"reading the model's output {read!r} is"
