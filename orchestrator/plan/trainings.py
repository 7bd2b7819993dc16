"""Trainings of a plan: their identities, which never change, and the lanes that their models make.

| table     | one row for each | what it says |
|---|---|---|
| trainings | training         | identity, name, axes, spec, and the task whose inputs it sees |
"""

__all__ = [
    "PlannedTraining",
    "TrainingPlan",
    "causal_task",
    "planned_trainings",
    "swept_study",
    "trainings_of",
    "trainings_table",
]

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.plan.load_pairs import task_rows
from orchestrator.plan.pair_columns import Row
from orchestrator.plan.tables import read_plan
from orchestrator.store import StudyStore
from studies import ModelSpec, Study, Task
from studies.language.base import plain
from studies.language.fields import Scalar
from studies.language.identity import canonical_json, content_id, lane_identity
from studies.language.trained import READ, Lanes, Training, read_variables, swept, trainings
from studies.names import is_name
from studies.tasks import find_task
from studies.tasks.causal import Causal
from workers.digests import digest_of
from workers.errors import StudyError
from workers.iit.spec import TrainSpec
from workers.model.facts import ModelFacts
from workers.model.references import resolve

ARTIFACT = "artifact:"
"""A model that a training of another study left: ``artifact:STUDY/NAME``."""

Known = Callable[[str], Sequence["PlannedTraining"]]
"""The trainings of another study, by its name.

Raises:
    StudyError: there is no such study, or it trains nothing.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTraining:
    """A training as a worker needs it."""

    identity: str
    """64 hex digits: a hash of all that the trained model hangs on."""
    training: Training
    task: Mapping[str, Any]
    """Whose inputs it sees, as a study writes it."""

    @property
    def path(self) -> str:
        """Place in a store: its study, and its identity."""
        return f"{self.training.study}/{self.identity}"

    @property
    def artifact(self) -> str:
        """Reference by which other studies name the models that it leaves."""
        return f"{ARTIFACT}{self.training.study}/{self.training.name}"

    @property
    def spec(self) -> TrainSpec:
        """Settings of the training."""
        return TrainSpec.from_json(self.training.spec)


class TrainingPlan:
    """The trainings that a study makes or sweeps.

    Args:
        study: as it was written.
        known: the trainings of other studies.
        say: gets lines of progress.

    Raises:
        StudyError: a training is impossible, or a model names one that is not there.
    """

    def __init__(self, study: Study, known: Known, say: Callable[[str], None]) -> None:
        self._say = say
        self._written = study
        self.own = self._planned()
        """Trainings that the study makes itself."""
        mine = {one.artifact for one in self.own}
        refs = {model.ref: None for model in study.lanes() if model.ref.startswith(ARTIFACT)}
        self.others = [one for ref in refs if ref not in mine for one in _artifacts(ref, known)]
        """Trainings of other studies whose models it may take."""
        self.study, self._lanes = swept_study(study, [*self.own, *self.others])
        """The study with lanes in the places of trainings."""
        self._by_training = {id(one.training): one for one in (*self.own, *self.others)}

    @cached_property
    def reads(self) -> dict[str | None, str]:
        """The variable that each output predicts that is read; empty where nothing trained is swept."""
        return read_variables(self._lanes)

    def of(self, model: ModelSpec) -> PlannedTraining | None:
        """The training that leaves a model of the study's lanes; None of one that is not trained."""
        found = next((training for lane, training in self._lanes if lane == model), None)
        return None if found is None else self._by_training[id(found)]

    def facts(self, model: ModelSpec) -> ModelFacts:
        """Facts of a lane's model.

        Raises:
            ModelError: it cannot be found.
        """
        planned = self.of(model)
        if planned is None:
            return resolve(model, say=self._say)
        training, read = planned.training, model.options.get(READ)
        facts = resolve(training.model, say=self._say)
        text = canonical_json({"training": planned.identity, "read": read})
        found = replace(facts, ref=model.ref, dtype=model.dtype, revision=_sha256("trained", text))
        if read is None:
            return found
        return replace(found, num_classes=training.model.options["outputs"][read]["classes"])

    def _planned(self) -> list[PlannedTraining]:
        if not self._written.train:
            return []
        task, causal = causal_task(self._written)
        model = causal.model(task.options)
        content = _content(causal, task)
        said = plain(task)
        output = str(task.options.get("output", model.outputs[0]))
        return [
            PlannedTraining(identity=self._identity(one, content), training=one, task=said)
            for one in _checked(trainings(self._written, output))
        ]

    def _identity(self, training: Training, content: str) -> str:
        facts = resolve(training.model, say=self._say)
        model = json.loads(lane_identity(facts, training.model))
        spec = {**training.spec, "model": model}
        return _sha256("training", canonical_json({"spec": spec, "content": content}))


def swept_study(study: Study, planned: Sequence[PlannedTraining]) -> tuple[Study, Lanes]:
    """The study with lanes in the places of the trainings that its blocks name: see `swept`."""
    by_ref: dict[str, list[Training]] = {}
    for one in planned:
        by_ref.setdefault(one.artifact, []).append(one.training)
        if one.training.study == study.study:
            by_ref.setdefault(one.training.name, []).append(one.training)
    return swept(study, by_ref)


def trainings_table(own: Sequence[PlannedTraining], others: Sequence[PlannedTraining]) -> pa.Table:
    """The table of a plan's trainings: those that the study makes itself, and those whose models it takes."""
    planned = [*own, *others]
    columns = {
        "training": [one.identity for one in planned],
        "study": [one.training.study for one in planned],
        "name": [one.training.name for one in planned],
        "axes": [json.dumps(dict(one.training.axes)) for one in planned],
        "spec": [json.dumps(one.training.spec) for one in planned],
        "task": [json.dumps(one.task) for one in planned],
    }
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    return table.append_column("own", pa.array([True] * len(own) + [False] * len(others), pa.bool_()))


def planned_trainings(tables: Mapping[str, pa.Table], *, others: bool = False) -> dict[str, PlannedTraining]:
    """The trainings of a plan's tables by identity, with `others` those of other studies too; none where it
    has no such table."""
    rows = tables["trainings"].to_pylist() if "trainings" in tables else []
    return {row["training"]: _planned(row) for row in rows if others or row.get("own", True)}


def trainings_of(root: Path) -> list[PlannedTraining]:
    """The trainings of the study in the folder `root`.

    Raises:
        StudyError: there is no such study, or it trains nothing.
        StoreError: its plan cannot be read.
    """
    store = StudyStore(root)
    state = store.state() if store.exists() else None
    if state is None or state.plan is None:
        raise StudyError(
            f"there is no study {root.name!r} in {root.parent} whose models could be taken; run it"
        )
    found = planned_trainings(read_plan(store, state.plan).tables)
    if not found:
        raise StudyError(f"the study {root.name!r} in {root.parent} trains no model")
    return list(found.values())


def _planned(row: Mapping[str, str]) -> PlannedTraining:
    axes: dict[str, Scalar] = json.loads(row["axes"])
    training = Training(study=row["study"], name=row["name"], axes=axes, spec=json.loads(row["spec"]))
    return PlannedTraining(identity=row["training"], training=training, task=json.loads(row["task"]))


def _artifacts(ref: str, known: Known) -> list[PlannedTraining]:
    study, _, name = ref.removeprefix(ARTIFACT).partition("/")
    if not is_name(study) or not name:
        raise StudyError(f"model {ref!r}: write artifact:STUDY/NAME, the name of a training of a study")
    there = known(study)
    found = [one for one in there if one.training.name == name]
    if not found:
        names = ", ".join(dict.fromkeys(one.training.name for one in there))
        raise StudyError(f"model {ref!r}: the study {study} trains {names}, and no {name!r}")
    return found


def causal_task(study: Study) -> tuple[Task, Causal]:
    """The one task of a study that follows a causal model.

    Raises:
        StudyError: there are several, or it is of no causal model.
    """
    tasks = study.all_tasks()
    found = [(task, find_task(task.name, study.code)) for task in tasks]
    if len(found) == 1 and isinstance(found[0][1], Causal):
        return found[0][0], found[0][1]
    raise StudyError(
        f"study {study.study}: this needs the causal model of one task, and the study has"
        f" {', '.join(task.name for task in tasks) or 'none'}"
    )


def _content(causal: Causal, task: Task) -> str:
    """Names what a training sees: the inputs, and the values of all variables, but no label."""
    return str(content_id("inputs of a training", [_inputs(row) for row in task_rows(causal, task)]))


def _inputs(row: Row) -> dict[str, Any]:
    labels = ("label", "base_label", "source_label")
    seen = {k: v for k, v in row.items() if k not in labels and not k.startswith("label.")}
    return {k: v.digest if hasattr(v, "digest") else v for k, v in seen.items()}


def _checked(found: list[Training]) -> list[Training]:
    for one in found:
        try:
            TrainSpec.from_json(one.spec)
        except StudyError as error:
            raise StudyError(f"train.{one.name}: {error}") from None
    return found


def _sha256(tag: str, text: str) -> str:
    return digest_of(f"swapyard:{tag}:1\n{text}".encode())
