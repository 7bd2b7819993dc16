"""Checks of a study across its parts: alignments, plots, trainings, and the sizes of products of axes."""

__all__ = ["aligned_block_problems", "place_problems", "plot_problems", "size_problems", "train_problems"]

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from studies.bounds import MOST_CELLS, MOST_TRAININGS, product_text
from studies.language.base import plain
from studies.language.blocks import AXES, Alignment, Block, For, named_axes
from studies.language.grammar import parse_range, references
from studies.language.models import ModelSpec
from studies.language.results import OF_TRAININGS
from studies.language.schema import StudyKeys
from studies.language.train import Train, drawn
from studies.language.variables import has_no_place
from studies.names import RESERVED
from studies.problems import Problem, shown
from studies.yaml import KeyPath
from workers.errors import nearest
from workers.model.sites import is_module_path

_ARTIFACT = "artifact:"


def place_problems(alignment: Alignment, path: KeyPath) -> Iterator[Problem]:
    """Places that are not complete, or that name an axis."""
    for name, place in alignment.items():
        written = {key: getattr(place, key) for key in type(place).model_fields}
        if references(written):
            text = (
                "a place of the alignment names no axis; write what it is (the alignment of a training may"
                " name its axes)"
            )
            yield Problem((*path, name), text)
        sites = written["site"] if isinstance(written["site"], tuple) else (written["site"],)
        is_path = all(isinstance(site, str) and is_module_path(site) for site in sites)
        for key in ("site", *(() if is_path else ("layer",))):
            if written[key] is None:
                yield Problem((*path, name), f"the key {key!r} is missing; a place needs it")


def aligned_block_problems(study: StudyKeys, raw: Block, block: Block, path: KeyPath) -> Iterator[Problem]:
    """Problems of a block that names variables, and says nowhere itself where they are."""
    alignment = _alignment_of(study, raw, block)
    if alignment is None:
        if not _takes_artifacts(block):
            yield Problem((*path, "variables"), _without_alignment(study, block))
        return
    written = block.variable if block.variables is None else block.variables
    for name in _flat(written):
        if name != "all" and name not in alignment:
            text = f"the alignment has no {name!r}; allowed: all, {', '.join(alignment)}"
            yield Problem((*path, "variables"), text + nearest(name, alignment))
    for key in ("layer", "head", "position", "subspace"):
        if getattr(block, AXES[key]) is not None:
            text = f"the alignment says where a variable is; leave {AXES[key]!r} out, or write a site"
            yield Problem((*path, AXES[key]), text)


def plot_problems(study: StudyKeys, blocks: tuple[Block, ...]) -> Iterator[Problem]:
    """Plots of trainings and alignments in a study that has none."""
    aligned = [
        has_no_place(block) and (_takes_artifacts(block) or _alignment_of(study, raw, block) is not None)
        for raw, block in zip(study.sweep, blocks, strict=True)
    ]
    for name, plot in (study.plots or {}).items():
        if plot.kind == OF_TRAININGS[0] and not study.train:
            text = "the study trains nothing, so there are no curves; draw heatmap or bars"
            yield Problem(("plots", name, "kind"), text)
        if plot.kind == OF_TRAININGS[1] and not any(aligned):
            text = (
                "no block interchanges variables at the places of an alignment; give the study an alignment,"
                " and a block with 'variables: all'"
            )
            yield Problem(("plots", name, "kind"), text)


def _alignment_of(study: StudyKeys, raw: Block, block: Block) -> Alignment | None:
    """The alignment of the block, or of the training that it sweeps."""
    trained = [train.alignment for name, train in (study.train or {}).items() if name in _refs(block)]
    own = next((alignment for alignment in trained if alignment is not None), None)
    return raw.alignment or own or block.alignment


def _without_alignment(study: StudyKeys, block: Block) -> str:
    text = "the block says nowhere where its variables are, and there is no alignment; give a site, or one"
    unknown = [ref for ref in _refs(block) if ref not in (study.train or {})]
    if not study.train or not unknown:
        return text
    return (
        f"{text}. {unknown[0]!r} is no training of the study, which has {', '.join(study.train)}"
        + nearest(unknown[0], study.train)
    )


def _takes_artifacts(block: Block) -> bool:
    """Whether all its models were trained by other studies, which know where they are aligned."""
    refs = _refs(block)
    return bool(refs) and all(ref.startswith(_ARTIFACT) for ref in refs)


def _refs(block: Block) -> list[str]:
    return [model.ref for model in block.models or (block.model,) if isinstance(model, ModelSpec)]


def _flat(written: Any) -> Iterator[str]:
    """The variables of a list, which may hold lists."""
    for one in (written,) if isinstance(written, str) else written:
        yield from (one,) if isinstance(one, str) else one


def train_problems(study: StudyKeys) -> Iterator[Problem]:
    """Problems with the names in ``train``."""
    for name, train in (study.train or {}).items():
        path: KeyPath = ("train", name)
        if study.pairs is not None:
            yield Problem(path, "a training needs a task with a causal model; here are pairs")
        if not isinstance(train.model, ModelSpec):
            yield Problem(path, "the key 'model' is missing; a training needs the network that it trains")
        yield from _axis_problems(train, path)
        yield from _output_problems(train, path)
        yield from _draw_problems(study, train, path)


def _axis_problems(train: Train, path: KeyPath) -> Iterator[Problem]:
    """Axes that are columns already, and references to none."""
    known = ["seed", *named_axes(train.for_)]
    named = references([plain(getattr(train, key)) for key in Train.model_fields if key != "for_"])
    for axis, values in named_axes(train.for_).items():
        if axis.casefold() in (*RESERVED, *AXES):
            text = f"{axis!r} is a column of the views already; allowed: a name of your own"
            yield Problem((*path, "for", axis), text)
        if axis not in named:
            yield Problem((*path, "for", axis), f"nothing uses this axis; write ${axis} where it is meant")
        if isinstance(train.for_, Mapping) and len(set(map(repr, values))) < len(values):
            yield Problem((*path, "for", axis), f"{shown(values)} has a value twice; name each once")
    for key in Train.model_fields:
        if key == "for_":
            continue
        for name in sorted(references(plain(getattr(train, key)))):
            if name not in known:
                allowed = ", ".join(f"${one}" for one in known)
                yield Problem((*path, key), f"no axis '${name}'; allowed: {allowed}{nearest(name, known)}")


def _output_problems(train: Train, path: KeyPath) -> Iterator[Problem]:
    """Outputs that nobody says the variable of, or that the model does not have."""
    named = train.model.options.get("outputs") if isinstance(train.model, ModelSpec) else None
    outputs = list(named) if isinstance(named, Mapping) else ["logits"]
    if isinstance(named, Mapping) and train.variables_of is None:
        text = (
            f"the key 'variables_of' is missing; it says which variable each of {', '.join(outputs)} predicts"
        )
        yield Problem(path, text)
    for name in train.variables_of or {}:
        if name not in outputs:
            text = f"the model has no output {name!r}; allowed: {', '.join(outputs)}{nearest(name, outputs)}"
            yield Problem((*path, "variables_of", name), text)
    known = list(train.variables_of or outputs)
    for index, loss in enumerate(train.losses):
        if loss.output not in known:
            key = "task" if loss.task is not None else "interchange"
            text = f"no output {loss.output!r}; allowed: {', '.join(known)}{nearest(loss.output, known)}"
            yield Problem((*path, "losses", index, key), text)


def _draw_problems(study: StudyKeys, train: Train, path: KeyPath) -> Iterator[Problem]:
    """Variables that are interchanged and have no place."""
    places = train.alignment or study.alignment or {}
    for index, loss in enumerate(train.losses):
        for names, _ in drawn(loss.draw) if loss.draw is not None else ():
            for name in names:
                if name not in places and not name.startswith("$"):
                    known = ", ".join(places) or "none, for there is no alignment"
                    text = f"the alignment has no {name!r}; allowed: {known}"
                    yield Problem((*path, "losses", index, "draw"), text + nearest(name, places))


def size_problems(study: StudyKeys) -> Iterator[Problem]:
    """Blocks, trainings and fits whose axes alone make far too many cells, trainings or fits."""
    totals: Counter[str] = Counter()
    for index, (raw, block) in enumerate(zip(study.sweep, study.blocks(), strict=True)):
        sizes = {**_for_sizes(block.for_), **_axis_sizes(block)}
        if math.prod(sizes.values()) > MOST_CELLS:
            text = (
                f"the axes make {product_text(sizes)} cells; a study has at most {MOST_CELLS:,} of one model"
            )
            path: KeyPath = ("sweep", index)
            yield Problem((*path, "for") if raw.for_ is not None else path, text)
            continue
        for model in block.models or (block.model,):
            totals[str(model)] += math.prod(sizes.values())
            if totals[str(model)] > MOST_CELLS >= totals[str(model)] - math.prod(sizes.values()):
                text = (
                    f"the axes make {product_text(sizes)} cells, with those of the blocks before"
                    f" {totals[str(model)]:,}; a study has at most {MOST_CELLS:,} of one model"
                )
                yield Problem(("sweep", index), text)
    for name, train in (study.train or {}).items():
        sizes = {**_for_sizes(train.for_), **_sizes({"seeds": train.seeds})}
        if math.prod(sizes.values()) > MOST_TRAININGS:
            text = f"the axes make {product_text(sizes)} trainings; at most {MOST_TRAININGS:,} are made"
            yield Problem(("train", name), text)
    for name, fit in (study.fits or {}).items():
        sizes = _sizes({"ranks": fit.ranks, "seeds": fit.seeds})
        if math.prod(sizes.values()) > MOST_TRAININGS:
            text = (
                f"the axes make {product_text(sizes)} fits at each place; at most {MOST_TRAININGS:,} are made"
            )
            yield Problem(("fits", name), text)


def _for_sizes(for_: For | None) -> dict[str, int]:
    if for_ is None:
        return {}
    if isinstance(for_, Mapping):
        return {name: len(values) for name, values in for_.items()}
    return {"+".join(for_[0]): len(for_)}


def _axis_sizes(block: object) -> dict[str, int]:
    """The sizes of the axes that are lists, or ranges of seeds; what others reach the model says."""
    return _sizes({plural: getattr(block, plural) for plural in AXES.values() if plural != "models"})


def _sizes(written: Mapping[str, object]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, values in written.items():
        if isinstance(values, list | tuple):
            found[name] = len(values)
        elif isinstance(values, str) and name == "seeds" and "$" not in values:
            parsed = parse_range(values)
            start, stop = (None, None) if parsed is None else parsed.bounds(lambda name: 0)
            if start is not None and stop is not None:
                found[name] = max(0, stop - start)
    return found
