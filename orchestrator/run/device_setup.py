"""Set-up of a run: which executor runs the study, with how many workers of how many threads."""

__all__ = [
    "Limits",
    "RunOptions",
    "Setup",
    "Threads",
    "check_threads",
    "fitting_s",
    "set_up",
    "set_up_training",
    "threads_here",
    "threads_of",
]

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.machine import cores_text, memory_bytes, num_cores, num_gpus
from orchestrator.plan.fit_tables import planned_fits
from orchestrator.plan.tables import Plan
from orchestrator.run.engines import Engines
from orchestrator.run.options import ADDRESS_VARIABLE, Limits, RunOptions
from orchestrator.run.throughput import estimate_rate
from workers.code.places import NO_CODE, Code
from workers.errors import RunError, counted

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Of the environment: what says how many threads a process has, the first that is set."""


@dataclass(frozen=True, slots=True)
class Threads:
    """Number of threads of each worker, and who said it."""

    asked: int | None
    """None where nobody said."""
    why: str
    """Source of the number, and its reason, in words."""
    is_given: bool = False
    """Whether it was said for this run: then there are so many, cores or not."""

    def of(self, num_workers: int, cores: int) -> int:
        """Threads of each of so many workers."""
        room = max(1, cores // num_workers)
        if self.is_given:
            return self.asked or room
        return min(self.asked or room, room)

    def most_workers(self, cores: int) -> int:
        """Workers for which there are cores."""
        return max(1, cores // (self.asked or 1))


def check_threads(threads: int | None) -> None:
    """Accept a number of threads.

    Raises:
        RunError: it is none.
    """
    if threads is not None and threads < 1:
        raise RunError(f"--threads {threads}: each worker has 1 thread or more")


def threads_of(given: int | None, environment: Mapping[str, str] = os.environ) -> Threads:
    """Threads that were asked for: by `given`, or by the environment, which may mean another machine."""
    cores, here = num_cores(), cores_text()
    check_threads(given)
    if given is not None:
        more = f", more than the {here}" if given > cores else f" of {here}"
        return Threads(given, f"--threads {given}{more}", is_given=True)
    for name in VARIABLES:
        # OpenMP takes one number for each level of nesting.
        said = environment.get(name, "").split(",")[0].strip()
        if not said:
            continue
        if not said.isdecimal() or int(said) < 1:
            return Threads(None, f"{here}; {name}={said!r} is no number of threads")
        if int(said) > cores:
            return Threads(cores, f"{name}={said} is more than the {here}")
        return Threads(int(said), f"{name}={said} of {here}")
    return Threads(None, here)


def threads_here(given: int | None = None) -> int:
    """Threads of a process that is alone at work on this machine."""
    return threads_of(given).of(1, num_cores())


INLINE_BELOW_S = 20.0
LEAST_STEP_S = 0.01
"""Time that a step of a fit takes however small the model is."""
PASSES_OF_A_STEP = 3
"""Forwards that take as long as one and its gradients."""
"""Ray costs about 6 s and 0.4 GB: below this a study is done sooner without it."""
BYTES_PER_PARAMETER = 6
"""A worker's memory for each parameter: float32 weights and half as much for activations."""
BYTES_PER_WORKER = 700 * 2**20
"""A worker's memory before it has a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Choice of executor, workers, and threads, and its reason."""

    executor: Literal["inline", "ray"]
    num_workers: int | None
    """None for as many as an existing cluster has room for."""
    threads: int
    """Of torch, in each worker; workers × threads exceed the cores only where that was asked for."""
    use_gpus: bool
    """Whether Ray's workers share the GPUs that it finds; otherwise models run on the CPU."""
    address: str | None
    num_parameters: int
    """Of the largest model."""
    slice_timeout_s: float | None
    """As in `RunOptions`."""
    rate: float
    """Cost units per second that a worker is expected to do."""
    why: str
    code: Code = NO_CODE
    remote_code: frozenset[str] = frozenset()

    @property
    def where(self) -> str:
        """Place where jobs run, in words."""
        threads = counted(self.threads, "thread")
        if self.executor == "inline":
            return f"in this process with {threads}"
        num = self.num_workers
        workers = "as many Ray workers as there is room for" if num is None else counted(num, "Ray worker")
        return f"on {workers} with {threads} each"

    @property
    def engines(self) -> Engines:
        """Engines for one worker of this setup."""
        return Engines(
            threads=self.threads,
            num_sharing=None if self.address else self.num_workers,
            code=self.code,
            remote_code=self.remote_code,
        )


def set_up(plan: Plan, num_open: int, options: RunOptions, *, share: float = 1.0) -> Setup:
    """Choose for `num_open` jobs of `plan`, of which a `share` of the cost is not filled in but run.

    Raises:
        RunError: more workers are asked for than there are cores, or several within this process.
    """
    cores, threads = num_cores(), threads_of(options.threads)
    if options.executor == "inline":
        if options.num_workers not in (None, 1):
            raise RunError(
                f"--workers {options.num_workers}: --executor inline is one worker in this process; leave"
                " --workers out, or take --executor ray"
            )
        return _setup("inline", plan, 1, threads.of(1, cores), options, f"as asked; {threads.why}")
    if options.address is not None:
        return _on_cluster(plan, options, threads)
    if options.num_workers is not None and options.num_workers > cores:
        raise RunError(
            f"--workers {options.num_workers}: this machine has {cores} cores; ask for at most that"
        )
    jobs_s = share * num_open * _cost_per_job(plan) / _rate(plan, 1)
    seconds = (jobs_s + fitting_s(plan) * bool(num_open)) / cores
    if _is_short(seconds, options):
        why = f"short enough to be done sooner without Ray; {threads.why}"
        return _setup("inline", plan, 1, threads.of(1, cores), options, why)
    gpus = num_gpus() if _may_use_gpus(plan) else 0
    most = max(1, min(cores, gpus) if gpus else min(threads.most_workers(cores), _workers_in_memory(plan)))
    num_workers = options.num_workers or most
    why = "as asked" if options.executor == "ray" else f"about {seconds:,.0f} s of work"
    return _several(plan, num_workers, options, threads, why)


def set_up_training(plan: Plan, num: int, options: RunOptions) -> Setup:
    """Choose for `num` trainings of `plan`: several at once are worth starting Ray."""
    cores, threads = num_cores(), threads_of(options.threads)
    if options.executor == "inline":
        return _setup("inline", plan, 1, threads.of(1, cores), options, f"as asked; {threads.why}")
    if options.address is not None:
        return _on_cluster(plan, options, threads)
    most = min(num, threads.most_workers(cores))
    if options.executor == "auto" and options.num_workers in (None, 1) and most == 1:
        why = f"one at a time; {threads.why}"
        return _setup("inline", plan, 1, threads.of(1, cores), options, why)
    num_workers = options.num_workers or most
    why = "as asked" if options.executor == "ray" else f"{num_workers} at once"
    return _several(plan, num_workers, options, threads, why)


def _on_cluster(plan: Plan, options: RunOptions, threads: Threads) -> Setup:
    """On an existing cluster, of whose nodes this machine's cores say nothing."""
    named = f" (of {ADDRESS_VARIABLE})" if options.address == os.environ.get(ADDRESS_VARIABLE) else ""
    why = f"on the Ray cluster at {options.address}{named}"
    said = f"; --threads {options.threads}" if options.threads else ""
    return _setup("ray", plan, options.num_workers, options.threads or 1, options, f"{why}{said}")


def _several(plan: Plan, num_workers: int, options: RunOptions, threads: Threads, why: str) -> Setup:
    """On workers of this machine, and whether there are more threads than cores."""
    each, cores = threads.of(num_workers, num_cores()), num_cores()
    over = f", and {num_workers} × {each} threads are more" if num_workers * each > cores else ""
    return _setup("ray", plan, num_workers, each, options, f"{why}; {threads.why}{over}")


def _is_short(seconds: float, options: RunOptions) -> bool:
    return options.executor == "auto" and seconds < INLINE_BELOW_S and options.num_workers in (None, 1)


def _setup(
    executor: Literal["inline", "ray"],
    plan: Plan,
    num: int | None,
    threads: int,
    options: RunOptions,
    why: str,
) -> Setup:
    return Setup(
        executor=executor,
        num_workers=num,
        threads=threads,
        use_gpus=_may_use_gpus(plan),
        address=options.address if executor == "ray" else None,
        num_parameters=max(lane.num_parameters for lane in plan.lanes.values()),
        slice_timeout_s=options.slice_timeout_s,
        rate=_rate(plan, threads),
        why=why,
        code=options.code,
        remote_code=options.remote_code,
    )


def _may_use_gpus(plan: Plan) -> bool:
    return any(lane.spec.device != "cpu" for lane in plan.lanes.values())


def _rate(plan: Plan, threads: int) -> float:
    return min(estimate_rate(lane, threads) for lane in plan.lanes.values())


def _cost_per_job(plan: Plan) -> float:
    costs = list(plan.costs.values())
    return float(sum(c.sum() for c in costs)) / max(1, sum(len(c) for c in costs))


def fitting_s(plan: Plan) -> float:
    """Time that training the fits of a plan takes one worker: steps of batches that run forwards and back."""
    whole_s = max(float(costs.max()) for costs in plan.costs.values()) / _rate(plan, 1)

    def fit_s(num_steps: int, batch_size: int) -> float:
        return num_steps * max(LEAST_STEP_S, PASSES_OF_A_STEP * batch_size * whole_s)

    specs = [fit.spec for fit in planned_fits(plan.tables).values()]
    return sum(fit_s(spec.get("num_steps") or 0, spec.get("batch_size") or 0) for spec in specs)


def _workers_in_memory(plan: Plan) -> int:
    parameters = max(lane.num_parameters for lane in plan.lanes.values())
    return int(0.8 * memory_bytes() / (BYTES_PER_WORKER + BYTES_PER_PARAMETER * parameters))
