"""Promise: a worker that dies, hangs or runs out of memory is replaced, what it did not do is done by others,
and only a job that kills worker after worker becomes a failure, which can be run again.

Real Ray, real kills. What kills is put into the worker's process by Python itself, at its start.
"""

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from running import (
    assert_same_rows,
    environment,
    forget_speed,
    long_pairs,
    num_parts,
    rows,
    start,
    swapyard,
    wait_until,
    write_study,
)

from orchestrator.api import open_results

pytestmark = pytest.mark.kills

NUM_PAIRS, NUM_TOKENS = 24, 12
NUM_JOBS = NUM_PAIRS * NUM_TOKENS * 9
POISON = '''
"""Runs `harm(engine, batch)` before every call of the engine, if Ray started this process; a driver gives a
study up after fewer deaths than otherwise, each of which takes seconds."""
import importlib.abc, importlib.machinery, os, signal, sys, time

def harm(engine, batch):
    {harm}

def poison(module):
    run = module.Engine.run
    def poisoned(self, batch, **options):
        harm(self, batch)
        return run(self, batch, **options)
    module.Engine.run = poisoned

def give_up_early(module):
    module.MORE_DEATHS = min(module.MORE_DEATHS, {more_deaths})

class Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name, change):
        self.name, self.change = name, change

    def find_spec(self, name, path, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            self.change(module)
        spec.loader.exec_module = exec_module
        return spec

if any("default_worker.py" in word for word in sys.orig_argv):
    sys.meta_path.insert(0, Finder("workers.engine.engine", poison))
else:
    sys.meta_path.insert(0, Finder("orchestrator.run.loop", give_up_early))
'''


@dataclass(frozen=True)
class World:
    """A study of a second or two, and its results from a run that nothing disturbed."""

    folder: Path
    study: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def expected(self) -> pa.Table:
        return rows(self.folder / "undisturbed", "long")

    def command(self, store: Path, *options: str) -> tuple[object, ...]:
        return ("run", self.study, "--executor", "ray", "--no-plots", "--store", store, *options)

    def poisoned(self, folder: Path, harm: str, *, more_deaths: int = 99) -> dict[str, str]:
        """An environment in which `harm`, a Python statement, happens in Ray's workers before every call.

        `more_deaths` than workers and finished slices are borne, and at most as many as otherwise.
        """
        (folder / "poison").mkdir()
        (folder / "poison" / "sitecustomize.py").write_text(POISON.format(harm=harm, more_deaths=more_deaths))
        return environment(self.cache, PYTHONPATH=str(folder / "poison"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> World:
    folder = tmp_path_factory.mktemp("deaths")
    made = World(folder, write_study(folder, "long", tiny_folder, long_pairs(NUM_PAIRS, NUM_TOKENS)))
    inline = ("run", made.study, "--executor", "inline", "--no-plots", "--store", folder / "undisturbed")
    done = swapyard(*inline, cwd=folder, cache=made.cache)
    assert done.returncode == 0, done.stderr
    return made


KILLED_BY_ONE = (
    "if any(n == 50 for n, _ in batch.cells) and any(p.pair == 7 for p in batch.pairs): os._exit(9)"
)


@pytest.mark.night
def test_a_job_that_kills_every_worker_becomes_the_only_failure(world: World, tmp_path: Path) -> None:
    poisoned = world.poisoned(tmp_path, KILLED_BY_ONE)
    done = swapyard(*world.command(tmp_path), cwd=world.folder, cache=world.cache, env=poisoned)
    assert done.returncode == 3, done.stderr
    assert "a job of which worker after worker died becomes a failure" in done.stderr
    assert len(re.findall(r"worker \d+ died and is replaced", done.stderr)) == 5
    failures = open_results("long", store=tmp_path).arrow("failures").to_pylist()
    assert [row["error_type"] for row in failures] == ["WorkerDied"]
    found, expected = rows(tmp_path, "long"), world.expected
    bad = str(failures[0]["job_id"])
    keep = pa.array([str(job) != bad for job in expected["job_id"].to_pylist()])
    assert_same_rows(found, expected.filter(keep))
    # On a sound machine it can be run again, once.
    again = swapyard(*world.command(tmp_path, "--retry-failed"), cwd=world.folder, cache=world.cache)
    assert again.returncode == 0, again.stderr
    assert "1 failed jobs run again" in again.stderr
    assert_same_rows(rows(tmp_path, "long"), expected)


def test_a_worker_that_takes_too_much_memory_is_replaced_by_one_that_takes_less(
    world: World, tmp_path: Path
) -> None:
    """Killed where an engine may take all of its share; with half of it the same slice succeeds."""
    harm = "if engine._bench.capture_tokens > 512: os.kill(os.getpid(), signal.SIGKILL)"
    poisoned = world.poisoned(tmp_path, harm)
    done = swapyard(
        *world.command(tmp_path), cwd=world.folder, cache=world.cache, env=poisoned, num_cores=None
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"worker \d+ died and is replaced", done.stderr)) <= 2
    assert_same_rows(rows(tmp_path, "long"), world.expected)


def test_workers_that_all_die_end_the_run_with_a_clear_word(world: World, tmp_path: Path) -> None:
    poisoned = world.poisoned(tmp_path, "os._exit(1)", more_deaths=3)
    done = swapyard(*world.command(tmp_path), cwd=world.folder, cache=world.cache, env=poisoned)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-2:]
    assert re.match(r"Error: 5 workers died and 0 slices were finished, so this run ends; the last", last[0])
    assert "logs lie in" in last[0] and last[1].startswith("to go on: ")


def test_an_exception_that_no_job_explains_costs_nothing_but_time(world: World, tmp_path: Path) -> None:
    harm = "if time.time() % 1 < 0.2: raise ValueError('now and then')"
    poisoned = world.poisoned(tmp_path, harm)
    done = swapyard(*world.command(tmp_path), cwd=world.folder, cache=world.cache, env=poisoned)
    assert done.returncode in (0, 3), done.stderr
    found = rows(tmp_path, "long").num_rows + open_results("long", store=tmp_path).arrow("failures").num_rows
    assert found == NUM_JOBS


@pytest.fixture
def in_the_middle(world: World) -> Iterator[Callable[..., "psutil.Popen"]]:
    """Start a run of the study under Ray and wait for a part of it."""
    started = []

    def begin(store: Path, *options: str) -> "psutil.Popen":
        forget_speed(world.cache)
        process = start(*world.command(store, *options), cwd=world.folder, cache=world.cache)
        started.append(process)
        wait_until(lambda: num_parts(store / "long") > 0, process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def workers_of(process: "psutil.Popen") -> list[psutil.Process]:
    """Ray's actors below a driver."""
    below = psutil.Process(process.pid).children(recursive=True)
    return [one for one in below if one.name().startswith("ray::StudyWorker")]


def test_a_worker_that_hangs_is_replaced(
    world: World, tmp_path: Path, in_the_middle: Callable[..., "psutil.Popen"]
) -> None:
    process = in_the_middle(tmp_path, "--slice-timeout", "8s")
    (worker,) = workers_of(process)
    assert worker.nice() == psutil.Process(process.pid).nice(), "workers starve beside other work"
    worker.send_signal(signal.SIGSTOP)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "its slice took too long" in err or num_parts(tmp_path / "long") == 1
    assert not worker.is_running(), "a stopped worker keeps its memory"
    assert_same_rows(rows(tmp_path, "long"), world.expected)


@pytest.mark.parametrize(
    "server",
    [
        pytest.param("raylet", marks=pytest.mark.night),
        pytest.param("gcs_server", marks=pytest.mark.versions),
    ],
)
def test_a_ray_of_our_own_that_loses_a_process_is_started_again(
    world: World, tmp_path: Path, in_the_middle: Callable[..., "psutil.Popen"], server: str
) -> None:
    process = in_the_middle(tmp_path)
    (victim,) = [c for c in psutil.Process(process.pid).children() if c.name() == server]
    victim.kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert_same_rows(rows(tmp_path, "long"), world.expected)


@pytest.mark.parametrize("server", [pytest.param("raylet", marks=pytest.mark.night), "gcs_server"])
def test_a_ray_that_somebody_stopped_does_not_hold_up_the_end(
    world: World, tmp_path: Path, in_the_middle: Callable[..., "psutil.Popen"], server: str
) -> None:
    process = in_the_middle(tmp_path, "--slice-timeout", "20s")
    (victim,) = [c for c in psutil.Process(process.pid).children() if c.name() == server]
    victim.suspend()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert_same_rows(rows(tmp_path, "long"), world.expected)


def test_the_first_worker_may_die_before_it_has_come_up(world: World, tmp_path: Path) -> None:
    process = start(*world.command(tmp_path), cwd=world.folder, cache=world.cache)
    try:
        wait_until(lambda: bool(workers_of(process)), process)
        (worker,) = workers_of(process)
        worker.kill()
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "Traceback" not in err and "raylet" not in err
    assert_same_rows(rows(tmp_path, "long"), world.expected)


def test_an_actor_that_outlives_its_driver_does_no_harm(
    world: World, tmp_path: Path, in_the_middle: Callable[..., "psutil.Popen"]
) -> None:
    """Stopped in the middle of a slice, it goes on only after another driver has finished the study."""
    process = in_the_middle(tmp_path)
    (worker,) = workers_of(process)
    worker.suspend()
    process.kill()
    process.wait()
    inline = ("run", world.study, "--executor", "inline", "--no-plots", "--store", tmp_path)
    done = swapyard(*inline, cwd=world.folder, cache=world.cache)
    assert done.returncode == 0, done.stderr
    assert_same_rows(rows(tmp_path, "long"), world.expected)
    if worker.is_running():
        worker.resume()
        psutil.wait_procs([worker], timeout=30)
    assert_same_rows(rows(tmp_path, "long"), world.expected)
    again = swapyard(*inline, cwd=world.folder, cache=world.cache)
    assert "nothing to do" in again.stderr


@pytest.mark.versions
def test_nothing_of_ray_is_left_behind(world: World, tmp_path: Path) -> None:
    # Ray's sockets allow no long path: elsewhere its folder would not be made.
    place = Path(f"/tmp/t{os.getpid()}")
    place.mkdir()
    try:
        given = environment(world.cache, TMPDIR=str(place))
        done = swapyard(*world.command(tmp_path), cwd=world.folder, cache=world.cache, env=given)
        assert done.returncode == 0, done.stderr
        assert list(place.iterdir()) == []
    finally:
        shutil.rmtree(place)
    assert not list((tmp_path / "long").glob(".hello*"))
    assert not list((tmp_path / "long").glob("logs/*/*.trial"))
