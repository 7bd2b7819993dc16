"""Trainings as a worker does them: a slice of time each, with a checkpoint at its end, until they are done.

The worker that has a training in hand goes on with it in memory; any other goes on from the last checkpoint.
What comes out is the same, bit for bit.
"""

__all__ = ["TrainHands"]

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from orchestrator.faults import reach
from orchestrator.plan.load_pairs import task_rows
from orchestrator.plan.trainings import PlannedTraining, planned_trainings
from orchestrator.stages.bench import WorkerBench
from orchestrator.stages.contract import StageReport
from orchestrator.stages.train.store import Checkpoint, TrainingFolder
from orchestrator.stages.units import Piece, Taken
from orchestrator.store.storage import LocalStorage
from studies.language.models import Task, check_task
from studies.pairs.tokens import TokenError, Tokenizer
from studies.tasks import find_task
from studies.tasks.causal import Causal
from studies.tasks.written import Texts
from workers.code.places import Code
from workers.errors import RunError
from workers.model.references import resolve
from workers.vocabulary import Prompt

if TYPE_CHECKING:
    from workers.causal.model import CausalModel
    from workers.iit.data import Data, Examples
    from workers.iit.trainer import Trainer
    from workers.model.facts import ModelFacts

ONE_THREAD_BELOW = 5_000_000
"""Parameters of a network that is trained."""

_logger = logging.getLogger("swapyard.trainings")


ASK_EVERY_S = 0.5
"""Time between two questions whether a slice is to end."""


@dataclass(slots=True)
class _Hand:
    """The training that a worker has in hand."""

    training: str
    attempt: int
    trainer: "Trainer"
    threads: int
    written: int
    """The step up to which its curve is kept."""


class TrainHands:
    """Trainings of one plan, as a worker advances them.

    Args:
        bench: whose engines say how many threads of torch there are; a training that goes on keeps those that
            it began with.
    """

    def __init__(self, bench: WorkerBench) -> None:
        self._bench = bench
        self._folder = TrainingFolder(LocalStorage(bench.root))
        self._threads = bench.engines.threads
        self._hand: _Hand | None = None

    def run(self, taken: Taken, target_s: float, worker: int) -> StageReport:
        """As `Hands.run`: train for about so long, and say how far it is."""

        def ends() -> bool:
            self._bench.pulse()
            return self._bench.is_asked()

        return self.advance(cast(Piece, taken).name, target_s, ends)

    def advance(self, training: str, seconds: float, ends: Callable[[], bool] = lambda: False) -> StageReport:
        """Train for about `seconds`, at least one step, and keep what came of it.

        `ends` is asked every now and then whether to stop before that.

        Raises:
            StoreError: what lies in the folder cannot be used, or nothing can be written there.
        """
        began = time.monotonic()
        if (done := self._folder.done(training)) is not None:
            return StageReport(done["step"], 0.0, total_steps=done["step"])
        hand = self._take(training)
        if isinstance(hand, StageReport):
            return hand
        taken = time.monotonic()
        error = self._train(hand, seconds, ends)
        reach("training.slice")
        self._keep_curve(hand)
        if error is not None:
            return self._failed(training, hand.attempt, error, hand.trainer.step, time.monotonic() - began)
        if hand.trainer.is_done:
            self._finish(hand)
        else:
            state = hand.trainer.state()
            about = {"meta": state.meta, "threads": hand.threads}
            self._folder.keep(training, Checkpoint(hand.trainer.step, state.tensors, about))
        spent = time.monotonic() - taken
        trainer = hand.trainer
        return StageReport(trainer.step, spent, is_over=trainer.is_done, total_steps=trainer.num_steps)

    def _take(self, training: str) -> "_Hand | StageReport":
        """The training in hand, or begun, or gone on with from its last checkpoint."""
        from workers.engine.attempts import attempt

        if self._hand is not None and self._hand.training == training:
            return self._hand
        self._hand = None
        checkpoint = self._folder.checkpoint(training)
        step = 0 if checkpoint is None else checkpoint.step
        threads = self._begins_with(training) if checkpoint is None else int(checkpoint.about["threads"])
        about = {"from_step": step, "host": socket.gethostname(), "pid": os.getpid(), "threads": threads}
        number = self._folder.begin(training, about)
        made: list[Trainer] = []
        error = attempt(lambda: made.append(self._trainer(self._planned[training], checkpoint, threads)))
        if error is not None:
            return self._failed(training, number, error, step, 0.0)
        _logger.info("attempt %d at the training %s goes on from step %d", number, training, step)
        written = -1 if checkpoint is None else step
        self._hand = _Hand(training, number, made[0], threads, written)
        return self._hand

    def _begins_with(self, training: str) -> int:
        """The threads of a training that begins: sharing the work of a small network costs more than it
        saves."""
        num_parameters = resolve(self._planned[training].spec.model, fetch=False).num_parameters
        return 1 if num_parameters < ONE_THREAD_BELOW else self._threads

    def _train(self, hand: _Hand, seconds: float, ends: Callable[[], bool]) -> Exception | None:
        import torch

        from workers.engine.attempts import attempt

        torch.set_num_threads(hand.threads)
        try:
            return attempt(lambda: _advance(hand.trainer, seconds, ends))
        finally:
            torch.set_num_threads(self._threads)

    def _keep_curve(self, hand: _Hand) -> None:
        step = hand.trainer.step
        rows = [measure.row() for measure in hand.trainer.curve if hand.written < measure.step <= step]
        if rows:
            self._folder.add_curve(hand.training, hand.written + 1, step, rows)
            hand.written = step

    def _finish(self, hand: _Hand) -> None:
        spec = self._planned[hand.training].spec
        trained = hand.trainer.result()
        about = {"training": hand.training, "model": spec.model.model_dump(mode="json"), **trained.config}
        report = {**trained.report, "step": hand.trainer.step, "num_attempts": hand.attempt + 1}
        self._folder.finish(hand.training, trained.weights, about, report)
        self._hand = None
        _logger.info("the training %s is done", hand.training)

    def _failed(self, training: str, number: int, error: Exception, step: int, seconds: float) -> StageReport:
        """Keep why it failed."""
        self._hand = None
        kind, message = type(error).__name__, str(error)
        self._folder.fail(training, number, {"step": step, "error_type": kind, "error_message": message})
        _logger.info("the training %s failed: %s: %s", training, kind, message)
        return StageReport(step, seconds, failure=f"{kind}: {message}", total_steps=step)

    def _trainer(self, planned: PlannedTraining, checkpoint: Checkpoint | None, threads: int) -> "Trainer":
        import torch

        from workers.iit.trainer import Trainer, TrainingState
        from workers.model.loading import load_module

        torch.set_num_threads(threads)
        spec = planned.spec
        facts = resolve(spec.model, fetch=False)
        trainer = Trainer(
            spec,
            load_module(spec.model.trusting(self._bench.engines.remote_code), facts),
            _data(planned, facts, self._bench.engines.code),
        )
        if checkpoint is not None:
            trainer.load(TrainingState(checkpoint.tensors, checkpoint.about["meta"]))
        return trainer

    @cached_property
    def _planned(self) -> dict[str, PlannedTraining]:
        return planned_trainings(self._bench.plan.tables)


def _advance(trainer: "Trainer", seconds: float, ends: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while True:
        trainer.advance(seconds=min(ASK_EVERY_S, max(0.0, until - time.monotonic())))
        if trainer.is_done or time.monotonic() >= until or ends():
            return


def _data(planned: PlannedTraining, facts: "ModelFacts", code: Code) -> "Data":
    """Data of a training: the bases of the task's pairs to train on, and its test pairs.

    Raises:
        RunError: the task has no pairs of one of the two.
    """
    from workers.iit.data import Data

    asked = check_task(planned.task)
    task = find_task(asked.name, code)
    assert isinstance(task, Causal), "checked by the plan"
    causal = task.model(asked.options)
    rows = task_rows(task, asked)
    by_split = {split: [row for row in rows if row["split"] == split] for split in ("train", "test")}
    for split, found in by_split.items():
        if not found:
            raise RunError(f"the task {asked.name} has no pairs to {split} on; ask for some with num_{split}")
    tokenizer = None if facts.folder is None else Tokenizer.of(facts.folder)
    written = _Written(causal.inputs, tokenizer)
    classes: dict[str, list[int]] = {}
    if tokenizer is not None and "text" in asked.options:
        variables = dict.fromkeys(planned.spec.variables_of.values())
        classes = {name: _tokens(causal, asked, name, rows[0]["base"], tokenizer) for name in variables}
    return Data(
        classes=classes,
        causal=causal,
        train=written.of(by_split["train"], "base"),
        base=written.of(by_split["test"], "base"),
        source=written.of(by_split["test"], "source"),
    )


def _tokens(
    causal: "CausalModel", asked: Task, variable: str, prompt: str, tokenizer: Tokenizer
) -> list[int]:
    """The token that says each value of a variable, as the task's answer writes it.

    Raises:
        TokenError: one of them is several tokens.
    """
    options = asked.options
    answer = options.get("answer", f" {{{variable}}}")
    texts = Texts(causal, options["text"], answer, options.get("words", {}))
    said = [(prompt, texts.answer({variable: int(value)})) for value in causal.domain(variable)]
    found: list[int] = []
    for ids in tokenizer.label_ids_all(said):
        if isinstance(ids, TokenError):
            raise ids
        found.append(ids[0])
    return found


class _Written:
    """Runs of pairs, as a network is given them."""

    def __init__(self, inputs: Sequence[str], tokenizer: Tokenizer | None) -> None:
        self._inputs = inputs
        self._tokenizer = tokenizer

    def of(self, rows: Sequence[Mapping[str, Any]], run: str) -> "Examples":
        from workers.iit.data import Examples

        values = np.array([[row[f"{run}.{name}"] for name in self._inputs] for row in rows], np.int64)
        return Examples.of_prompts([self._prompt(row, run) for row in rows], values)

    def _prompt(self, row: Mapping[str, Any], run: str) -> Prompt:
        if (vectors := row.get(f"{run}_embeds")) is not None:
            return vectors  # type: ignore[no-any-return]
        if (ids := row.get(f"{run}_ids")) is not None:
            return tuple(ids)
        if self._tokenizer is None:
            raise RunError(f"{row[run]!r} is text, and the model that is trained has no tokenizer")
        return self._tokenizer.encode(row[run]).ids
