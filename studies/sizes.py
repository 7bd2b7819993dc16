"""Products of axes, counted before anything is made of them."""

__all__ = ["size_problems"]

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from studies.blocks import AXES, For
from studies.bounds import MOST_CELLS, MOST_TRAININGS, product_text
from studies.forms import parse_range
from studies.problems import Problem
from studies.yaml import Path

if TYPE_CHECKING:
    from studies.spec import Study


def size_problems(study: "Study") -> Iterator[Problem]:
    """Blocks, trainings and fits whose axes alone make far too many cells, trainings or fits."""
    totals: Counter[str] = Counter()
    for index, (raw, block) in enumerate(zip(study.sweep, study.blocks(), strict=True)):
        sizes = {**_for_sizes(block.for_), **_axis_sizes(block)}
        if math.prod(sizes.values()) > MOST_CELLS:
            text = (
                f"the axes make {product_text(sizes)} cells; a study has at most {MOST_CELLS:,} of one model"
            )
            path: Path = ("sweep", index)
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
