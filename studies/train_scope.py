"""Whether the names that a study's trainings use exist."""

__all__ = ["train_problems"]

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from studies.blocks import AXES, named_axes
from studies.columns import RESERVED
from studies.dump import plain
from studies.forms import references
from studies.models import ModelSpec
from studies.problems import Problem, shown
from studies.train import Train, drawn
from studies.yaml import Path
from workers.errors import nearest

if TYPE_CHECKING:
    from studies.spec import Study


def train_problems(study: "Study") -> Iterator[Problem]:
    """Problems with the names in ``train``."""
    for name, train in (study.train or {}).items():
        path: Path = ("train", name)
        if study.pairs is not None:
            yield Problem(path, "a training needs a task with a causal model; here are pairs")
        if not isinstance(train.model, ModelSpec):
            yield Problem(path, "the key 'model' is missing; a training needs the network that it trains")
        yield from _axis_problems(train, path)
        yield from _output_problems(train, path)
        yield from _draw_problems(study, train, path)


def _axis_problems(train: Train, path: Path) -> Iterator[Problem]:
    """Axes that are columns already, and references to none."""
    known = ["seed", *named_axes(train.for_)]
    named = references([_as_dicts(plain(getattr(train, key))) for key in Train.model_fields if key != "for_"])
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
        for name in sorted(references(_as_dicts(plain(getattr(train, key))))):
            if name not in known:
                allowed = ", ".join(f"${one}" for one in known)
                yield Problem((*path, key), f"no axis '${name}'; allowed: {allowed}{nearest(name, known)}")


def _output_problems(train: Train, path: Path) -> Iterator[Problem]:
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


def _draw_problems(study: "Study", train: Train, path: Path) -> Iterator[Problem]:
    """Variables that are interchanged and have no place."""
    places = train.alignment or study.alignment or {}
    for index, loss in enumerate(train.losses):
        for names, _ in drawn(loss.draw) if loss.draw is not None else ():
            for name in names:
                if name not in places and not name.startswith("$"):
                    known = ", ".join(places) or "none, for there is no alignment"
                    text = f"the alignment has no {name!r}; allowed: {known}"
                    yield Problem((*path, "losses", index, "draw"), text + nearest(name, places))


def _as_dicts(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
