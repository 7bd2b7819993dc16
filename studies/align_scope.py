"""Whether the alignments of a study are complete, and its blocks and plots have the ones that they need."""

__all__ = ["aligned_block_problems", "place_problems", "plot_problems"]

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from studies.blocks import AXES, Alignment, Block
from studies.forms import references
from studies.models import ModelSpec
from studies.plots import OF_TRAININGS
from studies.problems import Problem
from studies.variables import has_no_place
from studies.yaml import Path
from workers.errors import nearest
from workers.sites import is_module_path

if TYPE_CHECKING:
    from studies.spec import Study

_ARTIFACT = "artifact:"


def place_problems(alignment: Alignment, path: Path) -> Iterator[Problem]:
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


def aligned_block_problems(study: "Study", raw: Block, block: Block, path: Path) -> Iterator[Problem]:
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


def plot_problems(study: "Study", blocks: tuple[Block, ...]) -> Iterator[Problem]:
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


def _alignment_of(study: "Study", raw: Block, block: Block) -> Alignment | None:
    """The alignment of the block, or of the training that it sweeps."""
    trained = [train.alignment for name, train in (study.train or {}).items() if name in _refs(block)]
    own = next((alignment for alignment in trained if alignment is not None), None)
    return raw.alignment or own or block.alignment


def _without_alignment(study: "Study", block: Block) -> str:
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
