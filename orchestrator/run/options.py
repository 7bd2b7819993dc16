"""Options of a run, each told once: its name, type, default, help and flag of ``swapyard run``.

Python fills these classes by keyword, the command line by the flags that their fields carry. No library is
loaded here, so that ``--help`` comes at once.
"""

__all__ = ["ADDRESS_VARIABLE", "Flag", "Limits", "RunOptions", "flags_of", "options_of"]

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, NamedTuple

from workers.code.places import NO_CODE, Code
from workers.model.capability import ABILITIES

ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Of the environment: an existing cluster, where the command line names none."""

_Value = Literal["count", "duration", "text", "switch"]
"""Type of a flag's value: a whole number from `Flag.least`, a time such as ``90s``, any text, or none."""


class Flag(NamedTuple):
    """Flag of ``swapyard run`` that fills a field."""

    name: str
    """Such as ``--workers``."""
    help: str
    kind: _Value = "text"
    choices: tuple[str, ...] = ()
    """Allowed texts; any where there are none."""
    least: int = 1
    metavar: str | None = None
    """Placeholder of the value in the help."""
    variable: str | None = None
    """Variable of the environment that says it where the flag is not given."""
    repeatable: bool = False


_FLAG = "flag"


def _option(default: Any, flag: Flag) -> Any:
    """A field of a dataclass with a default and a flag."""
    return field(default=default, metadata={_FLAG: flag})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds at which a run stops by itself, None for none; its work stays, and the same command goes on."""

    jobs: int | None = _option(
        None,
        Flag(
            "--limit", "Stop after about N jobs; cells are finished for up to 64 pairs.", "count", metavar="N"
        ),
    )
    """Number of jobs, rounded up to whole cells of a tile: those of at most 64 pairs."""
    seconds: float | None = _option(
        None,
        Flag(
            "--max-time",
            "Stop after this time, such as 90s, 30m or 8h; jobs that are running then are finished.",
            "duration",
            metavar="TIME",
        ),
    )
    """Seconds after it began; what runs then is finished."""
    failures: int | None = _option(
        None,
        Flag(
            "--max-failures",
            "Stop once more than N jobs of this run have failed.",
            "count",
            least=0,
            metavar="N",
        ),
    )
    """Number of failed jobs, of those that it ran itself, that is not to be exceeded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of a run of a study; nothing here is part of a result."""

    executor: Literal["auto", "inline", "ray"] = _option(
        "auto",
        Flag(
            "--executor",
            "Run jobs in this process (inline) or on Ray workers (ray); auto takes Ray for longer studies.",
            choices=("auto", "inline", "ray"),
        ),
    )
    num_workers: int | None = _option(
        None, Flag("--workers", "Number of workers [default: as many as fit].", "count")
    )
    """As many as there are cores, and memory for, where not said."""
    threads: int | None = _option(
        None,
        Flag(
            "--threads",
            "Threads of each worker [default: OMP_NUM_THREADS, or the cores shared out among the workers].",
            "count",
            metavar="N",
        ),
    )
    """Of torch in each worker; None for what ``OMP_NUM_THREADS`` says, or else as many as the cores allow."""
    address: str | None = _option(
        None,
        Flag(
            "--address",
            "An existing Ray cluster, such as auto or 10.0.0.1:6379 [default: a local Ray of our own].",
            variable=ADDRESS_VARIABLE,
        ),
    )
    """An existing Ray cluster; without it Ray is started on this machine where it is needed."""
    take_over: bool = _option(
        False, Flag("--take-over", "Take the study from another driver that holds it.", "switch")
    )
    """Whether a study that another driver holds is taken from it."""
    replace: bool = _option(
        False,
        Flag("--replace", "Go on in a folder that holds the results of a different study.", "switch"),
    )
    """Whether a folder is gone on with whose results have no job in common with the study's."""
    retry_failed: bool = _option(
        False,
        Flag(
            "--retry-failed",
            "Also run failed jobs again, each once; see --error-type for which.",
            "switch",
        ),
    )
    """Whether failed jobs run again, each once."""
    error_types: tuple[str, ...] = _option(
        (),
        Flag(
            "--error-type",
            "With --retry-failed: only failures of this error_type, such as OutOfMemoryError (repeatable).",
            metavar="TYPE",
            repeatable=True,
        ),
    )
    """Types of errors of the jobs that run again; all where none is named."""
    limits: Limits = Limits()
    """Bounds at which the run stops by itself."""
    slice_timeout_s: float | None = _option(
        None,
        Flag(
            "--slice-timeout",
            "Replace a worker that is silent for this time [default: 10m, or 20 times its expected time].",
            "duration",
            metavar="TIME",
        ),
    )
    """Seconds that a worker may be silent before it is taken to hang; None for what its work should take."""
    require: tuple[str, ...] = _option(
        (),
        Flag(
            "--require",
            "Use only workers whose loaded model can do this; exit with 1 if there is none (repeatable).",
            choices=tuple(ABILITIES),
            repeatable=True,
        ),
    )
    """Abilities that a worker's loaded model must have (of `workers.model.capability.ABILITIES`), beside
    those that the study requires; a worker without one gets no job."""
    code: Code = NO_CODE
    """Place of the functions of the study, which its driver knows."""
    remote_code: frozenset[str] = frozenset()
    """References of the models whose own code may be run."""


def flags_of() -> Mapping[str, tuple[Flag, Any]]:
    """Each option's flag and default by the name of its field, those of the limits in the limits' place."""
    return {one.name: (one.metadata[_FLAG], one.default) for one in _flagged()}


def options_of(given: Mapping[str, Any]) -> RunOptions:
    """Options from values by the names of `flags_of`."""
    names = {one.name for one in fields(Limits)}
    limits = Limits(**{name: value for name, value in given.items() if name in names})
    return RunOptions(limits=limits, **{name: value for name, value in given.items() if name not in names})


def _flagged() -> list[Field[Any]]:
    found: list[Field[Any]] = []
    for one in fields(RunOptions):
        found += fields(Limits) if one.name == "limits" else [one] if _FLAG in one.metadata else []
    return found
