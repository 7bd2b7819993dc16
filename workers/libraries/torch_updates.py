"""Optimisers and schedules of torch: the defaults that decide numbers, and their states on disk."""

__all__ = ["PLACES", "optimizer_options", "schedule_options", "take_up"]

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from workers.errors import StoreError
from workers.libraries import LibraryPlace
from workers.libraries.torch import is_of_machine

_BETAS = (0.9, 0.999)
_ADAM = {"lr": 1e-3, "betas": _BETAS, "eps": 1e-8, "weight_decay": 0, "amsgrad": False}

_OPTIMIZERS: Mapping[str, Mapping[str, object]] = {
    "ASGD": {"lr": 0.01, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6, "weight_decay": 0},
    "Adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0},
    "Adafactor": {"lr": 0.01, "beta2_decay": -0.8, "eps": (None, 1e-3), "d": 1.0, "weight_decay": 0.0},
    "Adagrad": {
        "lr": 0.01,
        "lr_decay": 0,
        "weight_decay": 0,
        "initial_accumulator_value": 0,
        "eps": 1e-10,
    },
    "Adam": {**_ADAM, "decoupled_weight_decay": False},
    "AdamW": {**_ADAM, "weight_decay": 0.01},
    "Adamax": {"lr": 2e-3, "betas": _BETAS, "eps": 1e-8, "weight_decay": 0},
    "Muon": {
        "lr": 1e-3,
        "weight_decay": 0.1,
        "momentum": 0.95,
        "nesterov": True,
        "ns_coefficients": (3.4445, -4.775, 2.0315),
        "eps": 1e-7,
        "ns_steps": 5,
    },
    "NAdam": {
        "lr": 2e-3,
        "betas": _BETAS,
        "eps": 1e-8,
        "weight_decay": 0,
        "momentum_decay": 4e-3,
        "decoupled_weight_decay": False,
    },
    "RAdam": {
        "lr": 1e-3,
        "betas": _BETAS,
        "eps": 1e-8,
        "weight_decay": 0,
        "decoupled_weight_decay": False,
    },
    "RMSprop": {
        "lr": 0.01,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0,
        "momentum": 0,
        "centered": False,
    },
    "Rprop": {"lr": 0.01, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50)},
    "SGD": {"lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False},
    "SparseAdam": {"lr": 1e-3, "betas": _BETAS, "eps": 1e-8},
}

_SCHEDULES: Mapping[str, Mapping[str, object]] = {
    "ConstantLR": {"factor": 1 / 3, "total_iters": 5},
    "CosineAnnealingLR": {"eta_min": 0.0},
    "CosineAnnealingWarmRestarts": {"T_mult": 1, "eta_min": 0.0},
    "CyclicLR": {
        "step_size_up": 2000,
        "mode": "triangular",
        "gamma": 1.0,
        "scale_mode": "cycle",
        "cycle_momentum": True,
        "base_momentum": 0.8,
        "max_momentum": 0.9,
    },
    "LinearLR": {"start_factor": 1 / 3, "end_factor": 1.0, "total_iters": 5},
    "MultiStepLR": {"gamma": 0.1},
    "OneCycleLR": {
        "pct_start": 0.3,
        "anneal_strategy": "cos",
        "cycle_momentum": True,
        "base_momentum": 0.85,
        "max_momentum": 0.95,
        "div_factor": 25.0,
        "final_div_factor": 1e4,
        "three_phase": False,
    },
    "PolynomialLR": {"total_iters": 5, "power": 1.0},
    "StepLR": {"gamma": 0.1},
}


def optimizer_options(name: str, options: Mapping[str, object]) -> dict[str, Any]:
    """Options of the optimizer `name` of torch, those that nobody said as they were when trainings began."""
    return _with_defaults(_OPTIMIZERS, torch.optim, name, options)


def schedule_options(name: str, options: Mapping[str, object]) -> dict[str, object]:
    """Options of the schedule `name` of torch, likewise."""
    return _with_defaults(_SCHEDULES, torch.optim.lr_scheduler, name, options)


def _with_defaults(
    known: Mapping[str, Mapping[str, object]], module: object, name: str, options: Mapping[str, object]
) -> dict[str, object]:
    takes = inspect.signature(getattr(module, name)).parameters
    return {key: value for key, value in known.get(name, {}).items() if key in takes} | dict(options)


def take_up(what: str, part: Any, state: Mapping[str, object], written_with: str | None) -> None:
    """Put the state that an optimizer or a schedule was kept with back into `part`.

    Args:
        what: for the message.
        part: of torch.
        state: what its ``state_dict()`` gave.
        written_with: the version of torch that did; None where nobody noted it.

    Raises:
        StoreError: this torch keeps it in another form.
        Exception: what breaks the device, or has no room in memory.
    """
    try:
        part.load_state_dict(state)
    except Exception as error:
        if is_of_machine(error):
            raise
        by = "another torch" if written_with is None else f"torch {written_with}"
        raise StoreError(
            f"the {what} was kept by {by}, and torch {torch.__version__} cannot take it up "
            f"({type(error).__name__}: {error}); install that version, or remove the training to begin anew"
        ) from error


def _changed(known: Mapping[str, Mapping[str, object]], module: object) -> list[str]:
    """Defaults of torch's that are others by now."""
    found: list[str] = []
    for name, pinned in known.items():
        takes = inspect.signature(getattr(module, name)).parameters if hasattr(module, name) else {}
        for key, value in pinned.items():
            if key in takes and takes[key].default != value:
                found.append(f"{name}({key}={value}) is {takes[key].default} by now")
    return found


def _probe_defaults() -> str | None:
    changed = _changed(_OPTIMIZERS, torch.optim) + _changed(_SCHEDULES, torch.optim.lr_scheduler)
    # Ours are passed, so numbers stay; whoever reads torch's manual reads others.
    return "; ".join(changed) or None


def _probe_states() -> str | None:
    steps: list[float] = []
    parameter = nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.Adam([parameter], lr=0.1)
    schedule: Any = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    for step in range(4):
        if step == 2:
            optimizer, schedule = _taken_up(parameter, optimizer, schedule)
        parameter.grad = torch.full_like(parameter, 1.0 + step)
        optimizer.step()
        schedule.step()
        steps.append(float(schedule.get_last_lr()[0]))
    wanted = [0.1, 0.05, 0.05, 0.025]
    if any(abs(one - other) > 1e-9 for one, other in zip(steps, wanted, strict=True)):
        raise ArithmeticError(f"a schedule that was kept goes on with {steps} instead of {wanted}")
    return None


def _taken_up(parameter: nn.Parameter, optimizer: Any, schedule: Any) -> tuple[object, object]:
    """New ones that go on where these are."""
    other: Any = torch.optim.Adam([parameter], lr=0.1)
    later = torch.optim.lr_scheduler.StepLR(other, 2, 0.5)
    take_up("optimizer", other, optimizer.state_dict(), None)
    take_up("schedule", later, schedule.state_dict(), None)
    return other, later


PLACES = (
    LibraryPlace(
        library="torch",
        name="defaults of the optimizers and schedules",
        used_for="trainings and fits that do not say them all: they decide what is learned",
        seen_with="2.13.0",
        without="ours are passed, as they were when trainings began: a new default changes nothing",
        marks=("initial_accumulator_value", "ns_coefficients", "final_div_factor"),
        probe=_probe_defaults,
    ),
    LibraryPlace(
        library="torch",
        name="state_dict of an optimizer and a schedule, kept in a training's checkpoints",
        used_for="going on with a training that was stopped, bit for bit",
        seen_with="2.13.0",
        without="the training fails, and names the version that kept it; it can be begun anew",
        marks=(),
        probe=_probe_states,
    ),
)
