"""The optimizer and the schedule that a training names: any of torch that takes plain options."""

__all__ = ["optimizer_of", "schedule_of"]

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from workers.errors import StudyError, nearest
from workers.libraries.torch_updates import optimizer_options, schedule_options
from workers.train.spec import TorchClass

_LENGTHS = ("total_steps", "T_max")
"""What schedules call the number of steps, which is known here."""


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


def _tupled(options: Mapping[str, Any]) -> dict[str, Any]:
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
