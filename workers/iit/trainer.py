"""Training loop of interchange intervention training, resumable after any step, elsewhere too, bit for bit.

The examples of a step follow from its number and the seed alone (`workers.iit.losses`), the network runs
without dropout, and a `TrainingState` holds the rest. So on one device and number of threads the weights
after a step are the same however often the training was stopped before it.

    trainer = Trainer(spec, module, data)
    while not trainer.advance(num_steps=100):
        keep(trainer.state())
    trainer.result()
"""

__all__ = [
    "Trained",
    "Trainer",
    "TrainingState",
    "joined",
    "optimizer_of",
    "parted",
    "restore",
    "schedule_of",
    "tensors_of",
]

import inspect
import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import safetensors.torch
import torch
from numpy import intp
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from workers.errors import DivergedError, StoreError, StudyError, nearest
from workers.iit.data import CausalLabels, Data
from workers.iit.losses import AlignedNetwork, Judge, TrainingBatch, order
from workers.iit.measures import Measure, RunningLosses, measure
from workers.iit.spec import TorchClass, TrainSpec
from workers.libraries.torch_updates import optimizer_options, schedule_options, take_up


@dataclass(frozen=True, slots=True)
class TrainingState:
    """State of a training after some of its steps."""

    tensors: bytes
    """Safetensors."""
    meta: Mapping[str, Any]
    """Plain data, for JSON."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> "TrainingState":
        """From tensors on any device."""
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return cls(safetensors.torch.save(kept), meta)

    def read(self) -> dict[str, Tensor]:
        """The tensors, in main memory.

        Raises:
            StoreError: they are damaged.
        """
        try:
            return safetensors.torch.load(self.tensors)
        except SafetensorError as error:
            raise StoreError(f"the tensors of a training's state cannot be read: {error}") from error


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, shared ones once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def parted(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as plain data; its tensors go to `tensors`, under names that begin with `name`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        items = [[key, parted(item, f"{name}.{key}", tensors)] for key, item in value.items()]
        return {"items": items}
    if isinstance(value, list | tuple):
        listed = [parted(item, f"{name}.{at}", tensors) for at, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": listed}
    return value


def joined(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Join what `parted` took apart."""
    if not isinstance(plain, Mapping):
        return plain
    ((form, content),) = plain.items()
    if form == "tensor":
        return tensors[content]
    if form == "items":
        return {key: joined(item, tensors) for key, item in content}
    return (tuple if form == "tuple" else list)(joined(item, tensors) for item in content)


@torch.no_grad()
def restore(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put the values of `tensors_of` back.

    Raises:
        StoreError: they are those of another network.
    """
    own = tensors_of(module)
    if {name: tensor.shape for name, tensor in own.items()} != {n: t.shape for n, t in tensors.items()}:
        raise StoreError("the state is that of another network; resume with the spec that it was made with")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


_LENGTHS = ("total_steps", "T_max")
"""Options of schedules that mean the number of steps, which is known here."""


def optimizer_of(chosen: TorchClass, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer.

    Raises:
        StudyError: there is no such one, or it does not take these options.
    """
    found = _class("optimizer", chosen.name, torch.optim, torch.optim.Optimizer, (torch.optim.LBFGS,))
    options = optimizer_options(chosen.name, _tupled(chosen.options))
    made: torch.optim.Optimizer = _made("optimizer", found, chosen, list(parameters), options)
    return made


def schedule_of(
    chosen: TorchClass | None, optimizer: torch.optim.Optimizer, num_steps: int
) -> LRScheduler | None:
    """The schedule, as long as the training where it has a length and none is given.

    Raises:
        StudyError: there is no such one, or it does not take these options.
    """
    if chosen is None:
        return None
    found = _class("schedule", chosen.name, torch.optim.lr_scheduler, LRScheduler, (ReduceLROnPlateau,))
    known = inspect.signature(found).parameters
    lengths = {name: num_steps for name in _LENGTHS if name in known and "epochs" not in chosen.options}
    said = TorchClass(chosen.name, lengths | dict(chosen.options))
    options = schedule_options(chosen.name, _tupled(said.options))
    made: LRScheduler = _made("schedule", found, said, optimizer, options)
    return made


def _class(what: str, name: str, module: Any, kind: type, without: tuple[type, ...]) -> Any:
    known = {
        key: one
        for key, one in vars(module).items()
        if isinstance(one, type) and issubclass(one, kind) and one not in (kind, *without) and key[0] != "_"
    }
    if name not in known:
        raise StudyError(
            f"there is no {what} {name!r}; there are {', '.join(sorted(known))}{nearest(name, known)}"
        )
    return known[name]


def _tupled(options: Mapping[str, object]) -> dict[str, object]:
    """Options as torch takes them: a list of a study file is a tuple."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


def _made(what: str, found: Any, chosen: TorchClass, given: Any, options: Mapping[str, Any]) -> Any:
    try:
        return found(given, **options)
    except Exception as error:
        takes = ", ".join(list(inspect.signature(found).parameters)[1:])
        raise StudyError(
            f"the {what} {chosen.name} with {_tupled(chosen.options)}: {error}; its options are {takes}"
        ) from error


_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Trained network as files hold it, with a report."""

    weights: bytes
    """Safetensors: parameters and buffers by name, shared ones once."""
    config: Mapping[str, object]
    """Model reference and options of the network."""
    report: Mapping[str, object]
    """Length of the training, and the last measurement."""


class Trainer:
    """Trains a network to do what a causal model does.

    Args:
        spec: what the training is made of.
        module: the network, whose parameters are trained in place.
        data: what it sees.

    Raises:
        StudyError: the spec names an optimizer, a schedule or a variable that is not there.
    """

    def __init__(self, spec: TrainSpec, module: nn.Module, data: Data) -> None:
        for variable in {*spec.alignment, *spec.variables_of.values()}:
            data.causal.ancestors(variable)  # refuses one that is not there
        self.spec = spec
        self.module = module
        self.step = 0
        """Number of steps that were done."""
        self.num_executed = 0
        """Number of steps executed on the way to this state, in whichever process."""
        self.num_here = 0
        """Number of steps executed by this object, those included that no state was kept of."""
        self.num_resumed = 0
        """Number of times that it went on from a state."""
        self.curve: list[Measure] = []
        self.steps_per_epoch = math.ceil(len(data.train) / spec.batch_size)
        self.num_steps = spec.num_steps or (spec.num_epochs or 0) * self.steps_per_epoch
        self._num_examples = len(data.train)
        self._labels = CausalLabels(data)
        self._network = AlignedNetwork(module, spec.alignment, tuple(spec.variables_of))
        self._judge = Judge(spec, self._network, self._labels)
        self._parameters = list(module.parameters())
        self._optimizer = optimizer_of(spec.optimizer, self._parameters)
        self._schedule = schedule_of(spec.schedule, self._optimizer, self.num_steps)
        self._running = RunningLosses()
        self._order = lru_cache(maxsize=2)(self._new_order)

    @property
    def epoch(self) -> int:
        """Number of epochs that were done."""
        return self.step // self.steps_per_epoch

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to do."""
        return self.step >= self.num_steps

    def advance(self, *, num_steps: int | None = None, seconds: float | None = None) -> bool:
        """Do some steps, at least one: so many, or until the time is over; without either all that are left.

        Returns:
            Whether the training is done.

        Raises:
            DivergedError: a loss is no number any more; the curve ends there.
        """
        end = self.num_steps if num_steps is None else min(self.num_steps, self.step + num_steps)
        until = math.inf if seconds is None else time.monotonic() + seconds
        with torch.enable_grad():
            while self.step < end:
                if self.step == 0:
                    self._measure()
                self._take_step()
                if time.monotonic() >= until:
                    break
        return self.is_done

    def state(self) -> TrainingState:
        """All that is needed to go on from here."""
        tensors = {f"model.{name}": tensor for name, tensor in tensors_of(self.module).items()}
        schedule = None if self._schedule is None else self._schedule.state_dict()
        meta = {
            "format": _FORMAT,
            "torch": str(torch.__version__),
            "spec": _plain(self.spec),
            "step": self.step,
            "num_executed": self.num_executed,
            "num_resumed": self.num_resumed,
            "optimizer": parted(self._optimizer.state_dict(), "optimizer", tensors),
            "schedule": parted(schedule, "schedule", tensors),
            "losses": [[*key, *sum_] for key, sum_ in self._running.sums.items()],
            "curve": [one.plain() for one in self.curve],
        }
        return TrainingState.of(tensors, meta)

    def load(self, state: TrainingState) -> None:
        """Go on from a state, in place of what was done here.

        Raises:
            StoreError: it is of another training, or damaged, or of a torch that kept it in another form.
        """
        meta, tensors = state.meta, state.read()
        if meta.get("format") != _FORMAT or meta["spec"] != _plain(self.spec):
            raise StoreError(
                "the state is that of another training; resume with the spec that it was made with"
            )
        own = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        restore(self.module, own)
        kept_by = meta.get("torch")
        take_up("optimizer", self._optimizer, joined(meta["optimizer"], tensors), kept_by)
        if self._schedule is not None:
            take_up("schedule", self._schedule, joined(meta["schedule"], tensors), kept_by)
        self.step = meta["step"]
        self.num_executed = meta["num_executed"]
        self.num_resumed = meta["num_resumed"] + 1
        self._running = RunningLosses(
            {(kind, h, v): (total, num) for kind, h, v, total, num in meta["losses"]}
        )
        self.curve = [Measure.of(one) for one in meta["curve"]]

    def result(self) -> Trained:
        """Trained network as it is after the steps that were done."""
        config: Any = getattr(self.module, "config", None)
        options = config.to_dict() if hasattr(config, "to_dict") else dict(self.spec.model.options)
        last = [one.row() for one in self.curve if one.step == self.step]
        return Trained(
            weights=TrainingState.of(tensors_of(self.module), {}).tensors,
            config={"ref": self.spec.model.ref, "options": options},
            report={
                "num_steps": self.step,
                "num_executed": self.num_executed,
                "num_resumed": self.num_resumed,
                "num_parameters": sum(parameter.numel() for parameter in self._parameters),
                "measures": last,
            },
        )

    def _take_step(self) -> None:
        self._optimizer.zero_grad()
        terms = self._judge.terms(self._batch())
        loss = sum((term.weight * term.loss for term in terms), start=self._l1())
        values = [float(value) for value in torch.stack([loss.detach(), *(t.loss.detach() for t in terms)])]
        if not math.isfinite(values[0]):
            self._diverge(values[0])
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if self._schedule is not None:
            self._schedule.step()
        self.step += 1
        self.num_executed += 1
        self.num_here += 1
        for term, value in zip(terms, values[1:], strict=True):
            self._running.add(term.kind, term.head, term.variable, value)
        if self.is_done or self.step % (self.spec.measure_every or self.steps_per_epoch) == 0:
            self._measure()

    def _l1(self) -> Tensor:
        """L1 penalty of the weights."""
        if not self.spec.l1:
            return torch.zeros((), device=self._parameters[0].device)
        return self.spec.l1 * torch.stack([parameter.abs().sum() for parameter in self._parameters]).sum()

    def _batch(self) -> TrainingBatch:
        epoch, number = divmod(self.step, self.steps_per_epoch)
        rows = slice(number * self.spec.batch_size, (number + 1) * self.spec.batch_size)
        return TrainingBatch(
            self.step, epoch, self._order("base", epoch)[rows], self._order("source", epoch)[rows]
        )

    def _new_order(self, stream: str, epoch: int) -> NDArray[intp]:
        return order(self.spec.seed, stream, epoch, self._num_examples)

    def _measure(self) -> None:
        found = list(measure(self.spec, self._network, self._labels, self.step, self.epoch))
        self.curve += [*self._running.taken(self.step, self.epoch), *found]
        bad = next((one.value for one in found if not math.isfinite(one.value)), None)
        if bad is not None:
            self._diverge(bad)

    def _diverge(self, loss: float) -> None:
        self.curve += self._running.taken(self.step, self.epoch)
        raise DivergedError(
            f"the loss is {loss} after {self.step} steps; take a smaller lr, or a longer warm-up",
            step=self.step,
        )


def _plain(spec: TrainSpec) -> Any:
    """The spec as JSON has it."""
    return json.loads(json.dumps(spec.to_json()))
