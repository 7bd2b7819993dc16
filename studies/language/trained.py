"""The trainings of a study, each with one value of every axis, and the sweep over the models that they leave.

A block that names a training as its model has a lane for each combination of the training's axes, and for
each output of it that is read: the axes, and the output as ``read``, are columns of its cells.
"""

__all__ = ["READ", "Lanes", "Training", "read_variables", "swept", "trainings"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from studies.language.axes import scalar_of
from studies.language.base import Spec, plain
from studies.language.blocks import Aligned, Block
from studies.language.fields import Scalar
from studies.language.grammar import is_reference, parse_range, substitute
from studies.language.models import ModelSpec, check_model
from studies.language.study import Study
from studies.language.train import Loss, Train, drawn
from workers.errors import StudyError, nearest

READ = "read"
"""The axis of a trained model's outputs, and the column of a pair that says whose its label is."""

ONLY_OUTPUT = "logits"
"""Name of the only output of a model."""

_ZOO = "zoo:"
_BUILT = "Train:1: "
"""First words of errors of a spec that was built here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One training: what each of its axes is, and what it is made of."""

    study: str
    """The study that makes it."""
    name: str
    axes: Mapping[str, Scalar]
    spec: Mapping[str, Any]
    """Keys of `workers.iit.spec.TrainSpec`, as plain data."""

    @property
    def model(self) -> ModelSpec:
        """The model that is trained."""
        return ModelSpec.model_validate(self.spec["model"])

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of its outputs; none of a model with one that has no name."""
        return outputs_of(self.model)

    @property
    def alignment(self) -> Mapping[str, Aligned]:
        """The place of each variable that it was trained to hold."""
        return {name: _place(node) for name, node in self.spec["alignment"].items()}

    @property
    def title(self) -> str:
        """Its name and axes, for people."""
        axes = ", ".join(f"{name} {value}" for name, value in self.axes.items())
        return f"{self.name} ({axes})" if axes else self.name


Lanes = Sequence[tuple[ModelSpec, Training]]
"""The models of a sweep that are trained, as the blocks name them, and by which training."""


def outputs_of(model: ModelSpec) -> tuple[str, ...]:
    """The names of a built-in model's outputs; none where it has one without a name."""
    outputs = model.options.get("outputs")
    return tuple(outputs) if isinstance(outputs, Mapping) else ()


def trainings(study: Study, output: str | None) -> list[Training]:
    """Every training of `study`, one for each combination of its axes.

    Args:
        study: what it says under ``train``.
        output: the variable that a model with one output predicts where the study does not say.

    Raises:
        StudyError: a place, an option or a reference is not what a training can use.
    """
    return [
        _training(study, name, train, names, output)
        for name, train in (study.train or {}).items()
        for names in _combinations(train)
    ]


def swept(study: Study, known: Mapping[str, Sequence[Training]]) -> tuple[Study, Lanes]:
    """The study with a lane in the place of every training that a block names.

    Variables are interchanged where a training was aligned, unless its block says where; a training of
    another study where this study says, if it does.

    Args:
        study: as it was written.
        known: the trainings that a model may name, by what it calls them.

    Raises:
        StudyError: an output is read that a model does not have, or no training has the options.
    """
    lanes: list[tuple[ModelSpec, Training]] = []
    blocks = tuple(
        one
        for raw, block in zip(study.sweep, study.blocks(), strict=True)
        for one in _swept_block(study, raw, block, known, lanes)
    )
    return (study.model_copy(update={"sweep": blocks}) if lanes else study), lanes


def read_variables(lanes: Lanes) -> dict[str | None, str]:
    """The variable that each output predicts that is read; None for that of models with one output.

    Raises:
        StudyError: two trainings have outputs of one name that predict different variables.
    """
    found: dict[str | None, str] = {}
    for lane, training in lanes:
        read = lane.options.get(READ)
        variable = training.spec["variables_of"][read or ONLY_OUTPUT]
        if found.setdefault(read, variable) != variable:
            raise StudyError(
                f"train.{training.name}: the output {read or ONLY_OUTPUT!r} predicts {variable}, and"
                f" {found[read]} in another training that is swept; give outputs names of their own"
            )
    return found


def _swept_block(
    study: Study,
    raw: Block,
    block: Block,
    known: Mapping[str, Sequence[Training]],
    lanes: list[tuple[ModelSpec, Training]],
) -> Iterator[Block]:
    """The block, once for each alignment of its models."""
    groups: dict[tuple[tuple[str, Aligned], ...] | None, list[object]] = {}
    own: list[tuple[ModelSpec, Training]] = []

    def add(model: object, alignment: Mapping[str, Aligned] | None) -> None:
        groups.setdefault(None if alignment is None else tuple(alignment.items()), []).append(model)

    for model in block.models or (block.model,):
        found = known.get(model.ref) if isinstance(model, ModelSpec) else None
        if found is None:
            add(model, block.alignment)
            continue
        assert isinstance(model, ModelSpec)
        if model.missing_weights is not None:
            raise StudyError(
                f"{block.name}: {model.ref} is trained here and lacks no weights; say missing_weights where"
                " its training names the model that it begins with"
            )
        for training in _chosen(block, model, found):
            is_said = raw.alignment is not None or (study.alignment and training.study != study.study)
            for lane in _lanes(block, model, training):
                own.append(lane)
                add(lane[0], block.alignment if is_said else training.alignment)
    if not own:
        yield block
        return
    lanes.extend(one for one in own if one not in lanes)
    for places, models in groups.items():
        said = {"models": tuple(models), "alignment": None if places is None else dict(places)}
        yield block.model_copy(update={**said, "model": None, "read": None, "reads": None})


def _chosen(block: Block, model: ModelSpec, found: Sequence[Training]) -> Sequence[Training]:
    """Trainings that have the values which the model names."""
    chosen = [one for one in found if all(one.axes.get(key) == value for key, value in model.options.items())]
    if not chosen:
        asked = ", ".join(f"{key} {value!r}" for key, value in model.options.items())
        there = "; ".join(one.title for one in found[:8])
        raise StudyError(f"{block.name}: no training {model.ref} has {asked}; there are {there}")
    return chosen


def _lanes(block: Block, model: ModelSpec, training: Training) -> Iterator[tuple[ModelSpec, Training]]:
    """The lanes of one trained model: one for each output that is read, or the first."""
    outputs = training.outputs
    asked = (block.read,) if block.read is not None else block.reads
    for read in asked or outputs[:1] or (None,):
        if read is not None and read not in outputs:
            allowed = ", ".join(outputs) or "one output; leave read out"
            raise StudyError(
                f"{block.name}: read {read!r}: {training.name} has {allowed}{nearest(str(read), outputs)}"
            )
        axes = {**training.axes, **({} if read is None else {READ: read})}
        yield model.model_copy(update={"options": axes}), training


def _combinations(train: Train) -> Iterator[dict[str, object]]:
    """The values of its axes."""
    rows: Sequence[Mapping[str, object]] = ({},)
    if isinstance(train.for_, Mapping):
        rows = [dict(zip(train.for_, values, strict=True)) for values in product(*train.for_.values())]
    elif train.for_ is not None:
        rows = train.for_
    for row in rows:
        for seed in _seeds(train):
            yield {**row, "seed": seed}


def _seeds(train: Train) -> Sequence[int]:
    if train.seed is not None:
        return (train.seed,)
    if isinstance(train.seeds, str):
        found = parse_range(train.seeds)
        assert found is not None, "checked when read"
        return found.indices(2**63, lambda name: 0)
    return tuple(train.seeds or ())


def _training(
    study: Study, name: str, train: Train, names: Mapping[str, object], output: str | None
) -> Training:
    try:
        spec = _spec(study, _filled(train, names), names, output)
    except StudyError as error:
        raise StudyError(f"train.{name}: {str(error).removeprefix(_BUILT)}") from None
    axes = {key: scalar_of(value) for key, value in names.items()}
    return Training(study=study.study, name=name, axes=axes, spec=spec)


def _filled(train: Train, names: Mapping[str, object]) -> Train:
    """The training with the values of its axes in the places of their names."""

    def fill(value: object) -> Any:
        if isinstance(value, ModelSpec):
            return check_model(fill(plain(value)))
        if isinstance(value, Spec):
            return fill(plain(value))
        if isinstance(value, Mapping):
            return {key: fill(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [fill(item) for item in value]
        if is_reference(value):
            return names[value[1:]]
        return substitute(value, names.__getitem__) if isinstance(value, str) else value

    given = {key: fill(getattr(train, key)) for key in Train.model_fields if key not in ("for_", "seeds")}
    return Train(**{**given, "seed": names["seed"]})


def _spec(study: Study, train: Train, names: Mapping[str, object], output: str | None) -> dict[str, object]:
    """All that decides the training, as plain data."""
    model = train.model
    assert isinstance(model, ModelSpec), "checked when read"
    if model.ref.startswith(_ZOO):
        model = model.model_copy(update={"options": {"seed": names["seed"], **model.options}})
    variables_of = dict(train.variables_of or {})
    if not variables_of and output is not None:
        variables_of = {ONLY_OUTPUT: output}
    places = train.alignment or study.alignment or {}
    return {
        "model": model.model_dump(mode="json"),
        "alignment": {name: _node(name, place) for name, place in places.items()},
        "variables_of": variables_of,
        "losses": [_term(loss) for loss in train.losses],
        "optimizer": {"name": train.optimizer.name, "options": plain(train.optimizer.options)},
        "schedule": train.schedule
        and {"name": train.schedule.name, "options": plain(train.schedule.options)},
        "l1": float(train.l1 or 0.0),
        "num_epochs": train.num_epochs,
        "num_steps": train.num_steps,
        "batch_size": train.batch_size,
        "seed": names["seed"],
        "measure_every": train.measure_every,
    }


def _node(name: str, place: Aligned) -> dict[str, object]:
    """Place at which a variable is to be held, as plain data."""
    position: Any = "all" if place.position is None else place.position
    if place.site is None or isinstance(place.site, tuple):
        raise StudyError(f"the place of {name} needs one site")
    numbers = position if isinstance(position, tuple) else (position,)
    if position != "all" and not all(isinstance(number, int) for number in numbers):
        raise StudyError(f"the place of {name} is at {position!r}; a training takes token indices, or all")
    for key in ("layer", "head"):
        value = getattr(place, key)
        written = value if isinstance(value, tuple) and key == "head" else (value,)
        if not all(item is None or isinstance(item, int) for item in written):
            raise StudyError(f"the place of {name} has the {key} {value!r}; a training takes numbers")
    heads = place.head if isinstance(place.head, tuple | None) else (place.head,)
    dims = place.subspace if isinstance(place.subspace, tuple | None) else (place.subspace,)
    if dims is not None and any(parse_range(str(part)) is None for part in dims if part != "all"):
        raise StudyError(
            f"the place of {name} has the subspace {place.subspace!r}; a training takes dimensions"
        )
    return {
        "site": place.site,
        "layer": place.layer,
        "heads": None if heads is None else list(heads),
        "position": list(position) if isinstance(position, tuple) else position,
        "dims": None if dims in (None, ("all",)) else list(dims or ()),
    }


def _place(node: Mapping[str, Any]) -> Aligned:
    """`_node`, back."""

    def at_once(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    return Aligned(
        site=node["site"],
        layer=node["layer"],
        head=at_once(node["heads"]),
        position=at_once(node["position"]),
        subspace=at_once(node["dims"]),
    )


def _term(loss: Loss) -> dict[str, object]:
    weight = 1.0 if loss.weight is None else loss.weight
    draws = () if loss.draw is None else drawn(loss.draw)
    return {
        "kind": "task" if loss.task is not None else "interchange",
        "head": loss.output,
        "weight": float(weight),
        "delay": loss.delay or 0,
        "warmup": loss.warmup or 0,
        "draws": [{"variables": list(names), "weight": float(often)} for names, often in draws],
    }
