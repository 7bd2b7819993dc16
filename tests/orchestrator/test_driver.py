"""Promise: each job is done once, whatever ends a run, and the same command finishes what is left.

The processes, the kills and the signals are real. The same under Ray: `test_cluster.py`.
"""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pytest
from click.testing import CliRunner
from running import (
    FLOATS,
    TOLERANCE,
    assert_same_rows,
    environment,
    forget_speed,
    in_shell,
    long_pairs,
    num_parts,
    rows,
    start,
    swapyard,
    to_go_on,
    wait_until,
    write_study,
)
from store.test_storage_full import in_tmpfs

from orchestrator.api import open_results
from orchestrator.cli import cli
from orchestrator.store import StudyStore
from orchestrator.upkeep.status import read_status

pytestmark = pytest.mark.kills

NUM_PAIRS, NUM_TOKENS = 64, 40
NUM_JOBS = NUM_PAIRS * NUM_TOKENS * 3 * 3


@dataclass(frozen=True)
class World:
    """A study of some seconds on one core, and its results from a run that nothing disturbed."""

    folder: Path
    study: Path
    model: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def expected(self) -> pa.Table:
        return rows(self.folder / "undisturbed", "long")

    def start(self, store: Path, *options: str, **others: Any) -> "subprocess.Popen[str]":
        arguments = ("run", self.study, "--executor", "inline", "--no-plots", "--store", store, *options)
        return start(*arguments, cwd=self.folder, cache=self.cache, **others)

    def run(self, store: Path, *options: str, **others: Any) -> "subprocess.CompletedProcess[str]":
        arguments = ("run", self.study, "--executor", "inline", "--no-plots", "--store", store, *options)
        return swapyard(*arguments, cwd=self.folder, cache=self.cache, **others)


@pytest.fixture(scope="module")
def new_world(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> World:
    """The study, before anybody has run it."""
    folder = tmp_path_factory.mktemp("driver")
    study = write_study(folder, "long", tiny_folder, long_pairs(NUM_PAIRS, NUM_TOKENS))
    return World(folder, study, tiny_folder)


@pytest.fixture(scope="module")
def world(new_world: World) -> World:
    made, folder = new_world, new_world.folder
    done = made.run(folder / "undisturbed")
    assert done.returncode == 0, done.stderr
    assert f"{NUM_JOBS:,} jobs done, {NUM_JOBS:,} of them in these" in done.stderr
    return made


@pytest.fixture
def in_the_middle(world: World, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a run of the study and wait for one more part of it."""
    started: list[subprocess.Popen[str]] = []

    def begin(store: Path, *options: str) -> "subprocess.Popen[str]":
        before = num_parts(store / "long")
        forget_speed(world.cache)
        process = world.start(store, *options)
        started.append(process)
        wait_until(lambda: num_parts(store / "long") > before, process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_run_does_nothing_and_says_so(world: World) -> None:
    parts = num_parts(world.folder / "undisturbed" / "long")
    again = world.run(world.folder / "undisturbed")
    assert again.returncode == 0
    assert f"{NUM_JOBS:,} jobs done, all of them before, so there was nothing to do" in again.stderr
    assert "running" not in again.stderr
    assert num_parts(world.folder / "undisturbed" / "long") == parts


def test_results_equal_plain_torch(world: World) -> None:
    """Hooks written here, on a few jobs drawn at random."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(world.model).eval()
    tokenizer = Tokenizer.from_file(str(world.model / "tokenizer.json"))
    paths = {"block_output": "model.layers.{}", "mlp_output": "model.layers.{}.mlp"}

    @torch.inference_mode()
    def swapped(base: str, source: str, site: str, layer: int, position: int) -> Any:
        module, taken = model.get_submodule(paths[site].format(layer)), {}

        def keep(_: Any, __: Any, output: Any) -> None:
            taken["it"] = output[0, position].clone()

        def put(_: Any, __: Any, output: Any) -> Any:
            changed = output.clone()
            changed[0, position] = taken["it"]
            return changed

        for prompt, hook in ((source, keep), (base, put)):
            handle = module.register_forward_hook(hook)
            logits = model(torch.tensor([tokenizer.encode(prompt).ids])).logits[0, -1]
            handle.remove()
        return logits

    sites = ", ".join(f"'{site}'" for site in paths)
    columns = ("base", "source", "site", "layer", "base_position", "label", "base_label", *FLOATS, "pred_id")
    found = open_results("long", store=world.folder / "undisturbed").sql(
        f"SELECT {', '.join(columns)} FROM results WHERE site IN ({sites}) AND base_position > 0"
        " ORDER BY hash(job_id) LIMIT 12"
    )
    for row in found.to_arrow_table().to_pylist():
        clean = swapped(row["base"], row["base"], row["site"], row["layer"], row["base_position"])
        logits = swapped(row["base"], row["source"], row["site"], row["layer"], row["base_position"])
        label, base_label = (tokenizer.token_to_id(f"Ġ{row[key].strip()}") for key in ("label", "base_label"))
        logprobs, before = logits.log_softmax(-1), clean.log_softmax(-1)
        top = logits.topk(2).values
        expected = {
            "label_logit": logits[label],
            "base_label_logit": logits[base_label],
            "label_logprob": logprobs[label],
            "margin": top[0] - top[1],
            "kl_base": (before.exp() * (before - logprobs)).sum(),
        }
        bound = TOLERANCE * float(logits.abs().max())
        assert {name: row[name] for name in FLOATS} == pytest.approx(
            {name: float(value) for name, value in expected.items()}, rel=0, abs=bound
        )
        assert row["pred_id"] == int(logits.argmax()) or row["margin"] < 2 * bound


def test_a_killed_run_is_finished_by_the_same_command_while_others_read(
    world: World, tmp_path: Path, in_the_middle: Callable[..., "subprocess.Popen[str]"]
) -> None:
    with reading(tmp_path) as seen:
        process = in_the_middle(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = rows(tmp_path, "long")
        assert 0 < kept.num_rows < NUM_JOBS
        (status,) = read_status(tmp_path, ["long"])
        assert (status.num_done, status.num_failed) == (kept.num_rows, 0) and not status.is_complete
        done = world.run(tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"going on after {kept.num_rows:,} of {NUM_JOBS:,} jobs" in done.stderr
    found = rows(tmp_path, "long")
    assert_same_rows(found, world.expected)
    still = found.filter(pyarrow.compute.is_in(found["job_id"], kept["job_id"]))
    assert still == kept, "rows that were committed have changed"
    assert seen == sorted(seen) and len(set(seen)) > 2, "readers saw counts fall, or nothing happen"


class reading:  # noqa: N801
    """Within it a thread reads status and results again and again; the numbers of rows that it saw."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._seen: list[int] = []
        self._error: BaseException | None = None

    def __enter__(self) -> list[int]:
        self._thread.start()
        return self._seen

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _read(self) -> None:
        try:
            while not self._stop.wait(0.1):
                store = StudyStore(self._store / "long")
                if store.exists() and store.state().plan is not None:
                    (status,) = read_status(self._store, ["long"])
                    self._seen.append(status.num_done)
                    counted = open_results("long", store=self._store).sql("SELECT count(*) FROM results")
                    self._seen.append(counted.fetchall()[0][0])
        except BaseException as error:
            self._error = error


def test_an_interrupt_drains_and_the_printed_command_goes_on(
    world: World, tmp_path: Path, in_the_middle: Callable[..., "subprocess.Popen[str]"]
) -> None:
    store = tmp_path / "a store's folder"
    process = in_the_middle(store)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopping: what runs is finished and committed; Ctrl-C again aborts it" in err
    told = re.search(r"interrupted at ([\d,]+) of ([\d,]+) jobs, all of them kept", err)
    assert told is not None, err
    assert int(told[1].replace(",", "")) == rows(store, "long").num_rows < NUM_JOBS
    done = in_shell(to_go_on(err), cwd=tmp_path, cache=world.cache)
    assert done.returncode == 0, done.stderr
    assert_same_rows(rows(store, "long"), world.expected)


def test_a_second_interrupt_ends_it_at_once(
    world: World, tmp_path: Path, in_the_middle: Callable[..., "subprocess.Popen[str]"]
) -> None:
    process = in_the_middle(tmp_path)
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    while "stopping" not in (line := process.stderr.readline()):
        assert line, "it ended without a word"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err.strip().splitlines()[0] == "interrupted"
    assert "Traceback" not in err
    assert to_go_on(err).startswith("swapyard run")


def test_sigterm_drains_too(tmp_path: Path, in_the_middle: Callable[..., "subprocess.Popen[str]"]) -> None:
    process = in_the_middle(tmp_path)
    parts = num_parts(tmp_path / "long")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert num_parts(tmp_path / "long") > parts, "what ran was not committed"
    assert to_go_on(err)


def test_an_interrupt_before_any_job_ends_it_at_once(world: World, tmp_path: Path) -> None:
    process = start(
        *("run", world.study, "--executor", "inline", "--store", tmp_path),
        cwd=world.folder,
        cache=tmp_path / "empty",
    )
    assert process.stderr is not None
    while "running the prompts" not in (line := process.stderr.readline()):
        assert line, process.communicate()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err.strip().splitlines() == ["interrupted", f"to go on: {to_go_on(err)}"]


def test_a_second_driver_stops_and_says_who_holds_the_study(new_world: World, tmp_path: Path) -> None:
    with StudyStore(tmp_path / "long").open_driver():
        refused = new_world.run(tmp_path, num_cores=None)
    assert refused.returncode == 5
    assert re.search(
        rf"driven by process {os.getpid()} on \S+ \(since .*\); wait .* --take-over", refused.stderr
    )
    assert "to go on" not in refused.stderr


def test_a_second_driver_loads_no_torch(world: World, tmp_path: Path) -> None:
    with StudyStore(tmp_path / "long").open_driver():
        refused = world.run(tmp_path, env=environment(world.cache, PYTHONPROFILEIMPORTTIME="1"))
    imported = {
        line.rpartition("|")[2].strip() for line in refused.stderr.splitlines() if "import time:" in line
    }
    assert "orchestrator.run.driver" in imported
    assert imported.isdisjoint({"torch", "transformers", "ray"})


def test_taking_over_fences_the_driver_before(
    world: World, tmp_path: Path, in_the_middle: Callable[..., "subprocess.Popen[str]"]
) -> None:
    first = in_the_middle(tmp_path)
    first.send_signal(signal.SIGSTOP)
    second = world.run(tmp_path, "--take-over")
    assert second.returncode == 0, second.stderr
    first.send_signal(signal.SIGCONT)
    _, err = first.communicate(timeout=30)
    assert first.returncode == 5
    assert re.search(r"was fenced: process \d+ on \S+ \(since .*\) took the study over", err)
    assert_same_rows(rows(tmp_path, "long"), world.expected)


def test_jobs_that_fail_are_rows_and_exit_code_3(world: World, tmp_path: Path) -> None:
    sweep = [
        {"site": "block_output", "layers": "all", "position": -1},
        {"name": "broken", "site": "model.layers.1.mlp", "position": -1, "subspace": "99:100"},
    ]
    study = write_study(tmp_path, "partly", world.model, long_pairs(4, 6), sweep=sweep)
    command = ["run", str(study), "--no-plots", "--store", str(tmp_path / "my runs")]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 3
    assert "partly: 16 jobs done, 16 of them in these" in done.stderr
    told = done.stderr.strip().splitlines()[-1]
    assert told.startswith("4 jobs failed; to see why: ")
    why = in_shell(f"{told.partition(': ')[2]} --format csv", cwd=tmp_path, cache=world.cache)
    assert why.stdout.count("dimensions 99:100 at model.layers.1.mlp:output") == 4
    assert rows(tmp_path / "my runs", "partly").num_rows == 12
    (status,) = read_status(tmp_path / "my runs", [])
    assert (status.num_done, status.num_failed, status.is_complete) == (16, 4, True)
    again = CliRunner().invoke(cli, command)
    assert again.exit_code == 3 and "nothing to do" in again.stderr


def test_a_study_in_which_every_job_fails_has_no_answer(world: World, tmp_path: Path) -> None:
    sweep = [{"site": "model.layers.1.mlp", "position": -1, "subspace": "99:100"}]
    study = write_study(tmp_path, "wholly", world.model, long_pairs(4, 6), sweep=sweep)
    done = CliRunner().invoke(cli, ["run", str(study), "--no-plots", "--store", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (3, "")


FILL_THE_DISK = """
run() { taskset -c "$1" swapyard run "$STUDY" --executor inline --no-plots --store runs; }
run "$1" & running=$!
until ls runs/long/data/*/*/*.parquet >/dev/null 2>&1; do sleep 0.05; done
cat /dev/zero >filler 2>/dev/null
wait $running; echo "$?"
find . -name '.tmp-*'
swapyard query 'SELECT count(*) FROM results' --store runs --format csv
rm filler
run "$1"; echo "$?"
swapyard query 'SELECT count(*) AS jobs, count(DISTINCT job_id) AS ids FROM results' --store runs --format csv
"""


def test_a_full_disk_ends_it_with_code_4_and_it_goes_on_when_there_is_room(
    world: World, tmp_path: Path
) -> None:
    core = str(min(os.sched_getaffinity(0)))
    forget_speed(world.cache)
    done = subprocess.run(
        [*in_tmpfs(tmp_path, "size=4m"), "sh", "-c", f'cd "{tmp_path}"\n{FILL_THE_DISK}', "sh", core],
        env=environment(world.cache, STUDY=str(world.study)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Error: no room is left to write" in done.stderr and "to go on: swapyard run" in done.stderr
    assert "Traceback" not in done.stderr
    code, _, kept, answer = done.stdout.split("\n", 3)
    assert code == "4"
    assert 0 < int(kept) < NUM_JOBS
    assert answer.splitlines()[-3:] == ["0", '"jobs","ids"', f"{NUM_JOBS},{NUM_JOBS}"]
