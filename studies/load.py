"""Reading of studies from a path, the name of a bundled one, or text; and whether this version runs them."""

__all__ = ["BUNDLED", "check_supported", "load_all", "load_study", "stored_study"]

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from studies.bounds import MOST_TEXT_BYTES
from studies.language.blocks import Block
from studies.language.grammar import parse_span, references
from studies.language.models import ModelSpec, check_model
from studies.language.results import Contains
from studies.language.schema import with_models
from studies.language.study import Study
from studies.tasks import find_task
from studies.yaml import read_all_yaml, read_text, read_yaml
from workers.errors import NotYetError, StudyError, nearest

BUNDLED = Path(__file__).parent
"""The folder of the bundled studies."""


def load_study(path_or_text: str | Path) -> Study:
    """The study in a file, a bundled study by its bare name, or a study written as text.

    A path to pairs or to weights, and a model's folder that is written with a dot or ``~`` first, are taken
    relative to the study file's folder. Text is what has more than one line, or a colon and a space.

    Its functions are taken from Python files below that folder, or below the current one of a text; they are
    not run before somebody trusts it (see ``docs/trust.md``).

    Raises:
        StudyError: there is no such file, or its content is no study.
    """
    given = str(path_or_text)
    if isinstance(path_or_text, str) and ("\n" in given or ": " in given):
        return _beside(Study.from_text(read_yaml(given)), Path.cwd())
    path = find_study(given)
    try:
        text = read_text(path, given, MOST_TEXT_BYTES)
    except OSError as error:
        raise StudyError(f"{given}: the study cannot be read: {error}") from None
    study = Study.from_text(read_yaml(text, given))
    folder = path.resolve().parent
    return _beside(_with_whole_paths(study, folder), folder)


def load_all(text: str, name: str = "<text>") -> Iterator[Study]:
    """Each document of `text` as a study. Raises as `load_study` does."""
    return (Study.from_text(document) for document in read_all_yaml(text, name))


def stored_study(text: str, name: str) -> Study:
    """A study that was accepted once and lies in a store: what no study file may say any more it may.

    Its pairs, which are in the plan, are not read again.

    Raises:
        StudyError: it is no study.
    """
    read = read_yaml(text, name)
    data = _without_trust(read.data)
    if isinstance(data, dict) and isinstance(data.get("pairs"), list):
        data["pairs"] = "planned.jsonl"
    return Study.from_text(replace(read, data=data), is_stored=True)


def _without_trust(data: object) -> object:
    """Studies could say once that code of their models may run."""
    if isinstance(data, dict):
        return {key: _without_trust(value) for key, value in data.items() if key != "trust_remote_code"}
    return [_without_trust(one) for one in data] if isinstance(data, list) else data


def find_study(given: str) -> Path:
    """The file that a path or the bare name of a bundled study means.

    Raises:
        StudyError: there is neither.
    """
    bundled = {file.stem: file for file in BUNDLED.glob("*.yaml")}
    try:
        path = Path(given).expanduser()
        if path.exists() and not (path.is_dir() and given in bundled):
            return path
    except (OSError, RuntimeError, ValueError) as error:
        raise StudyError(f"{given[:80]!r}: the study cannot be read: {error}") from None
    if given in bundled:
        return bundled[given]
    names = ", ".join(sorted(bundled))
    raise StudyError(f"{given}: no such study file; bundled studies: {names}{nearest(given, bundled)}")


def _beside(study: Study, folder: Path) -> Study:
    """The study with the functions of a folder; those of bundled studies are ours."""
    return study.with_code(
        replace(study.code, folders=(folder.resolve(),), is_trusted=folder == BUNDLED.resolve())
    )


def _with_whole_paths(study: Study, folder: Path) -> Study:
    """Make relative paths whole, so that the study means the same wherever it is read again."""
    pairs = _whole(study.pairs, folder) if isinstance(study.pairs, str) else study.pairs
    fits = study.fits and {
        name: fit if fit.path is None else fit.model_copy(update={"path": _whole(fit.path, folder)})
        for name, fit in study.fits.items()
    }
    study = with_models(study, partial(_with_whole_ref, folder=folder))
    return study.model_copy(update={"pairs": pairs, "fits": fits})


def _with_whole_ref(model: ModelSpec | str, folder: Path) -> ModelSpec:
    """A model's relative folder made whole; aliases, hub ids and other spellings stay as they are."""
    spec = check_model(model)
    if not spec.ref.startswith((".", "~")):
        return spec
    return spec.model_copy(update={"ref": _whole(spec.ref, folder)})


def _whole(path: str, folder: Path) -> str:
    try:
        return str((folder / Path(path).expanduser()).resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise StudyError(f"{path[:80]!r} is no path that can be read: {error}") from None


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


def _read(where: str, read: object) -> Iterator[tuple[str, str]]:
    """An output of the model is a name alone; a token of a span has a part."""
    span = parse_span(read) if isinstance(read, str) and not references(read) else None
    if span is not None and span[1] is None:
        yield where, f"reading the model's output {read!r} is"
