"""The study that is tortured, and the command that runs it."""

__all__ = ["Executor", "Run", "World", "make_world"]

import os
import shutil
import subprocess
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import pyarrow as pa

from tests.orchestrator.running import environment, long_pairs, rows, start, write_study
from tests.torture.tiny import save_tiny_model
from workers.model.cache import models_folder

Executor = Literal["ray", "inline"]
STUDY = "torture"
MOST_FILES = "12"
"""Files of rows that a study may have: small ones are merged again and again."""
NUM_LAYERS = {"tiny": 8, "smollm2": 30}
NUM_TOKENS = {"tiny": (20, 32, 44), "smollm2": (5, 6, 8)}
"""Lengths of the prompts; each makes tiles of its own."""
NUM_SITES = 3
CALM_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Run:
    """A `swapyard run` that was started; its session bears the number of its process."""

    process: "subprocess.Popen[str]"
    said: Path
    """What it wrote to stdout and stderr."""

    @property
    def session(self) -> int:
        """The session of all processes that it starts."""
        return self.process.pid

    @property
    def last_line(self) -> str:
        """Its last words."""
        lines = self.said.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "(it said nothing)"


class World:
    """One study and one model, in a folder for everything that the torture writes."""

    def __init__(self, folder: Path, study: Path, models: Path | None) -> None:
        self.folder = folder
        self._study = study
        self._models = models
        self._numbers = count(1)
        self.sessions: set[int] = set()
        """Of all runs that were ever started."""

    def run(self, store: Path, executor: Executor, *arguments: str, study: Path | None = None) -> Run:
        """Start the study in the folder `store`, which has a cache of its own; or another `study` file."""
        cache = store / "cache"
        if not cache.exists():
            cache.mkdir(parents=True)
            if self._models is not None:
                (cache / "models").symlink_to(self._models)
        said = self.folder / f"run-{next(self._numbers):04d}.log"
        with said.open("w") as stream:
            process = start(
                *(
                    "run",
                    study or self._study,
                    "--executor",
                    executor,
                    "--no-plots",
                    "--store",
                    store / "runs",
                ),
                *(("--workers", min(2, os.cpu_count() or 1)) if executor == "ray" else ()),
                *arguments,
                cwd=self.folder,
                cache=cache,
                num_cores=None,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment(cache, SWAPYARD_MOST_FILES=MOST_FILES),
            )
        self.sessions.add(process.pid)
        return Run(process, said)

    def do(self, store: Path, *arguments: str) -> Run:
        """Start another command about the studies in `store`."""
        said = self.folder / f"run-{next(self._numbers):04d}.log"
        with said.open("w") as stream:
            process = start(
                *arguments,
                *("--store", store / "runs"),
                cwd=self.folder,
                cache=store / "cache",
                num_cores=None,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        self.sessions.add(process.pid)
        return Run(process, said)

    def named(self, name: str) -> Path:
        """The study file under another name."""
        path = self.folder / f"{name}.yaml"
        text = self._study.read_text(encoding="utf-8")
        path.write_text(text.replace(f'"study": "{STUDY}"', f'"study": "{name}"', 1), encoding="utf-8")
        return path

    def study_folder(self, store: Path) -> Path:
        """Where the study lies in `store`."""
        return store / "runs" / STUDY

    def results(self, store: Path, name: str = STUDY) -> pa.Table:
        """All results of a study in `store`, by job."""
        return rows(store / "runs", name)

    def calm(self, executor: Executor) -> pa.Table:
        """The results of a run that nobody disturbs."""
        store = self.folder / "calm"
        run = self.run(store, executor)
        if run.process.wait(timeout=CALM_TIMEOUT_S) != 0:
            raise SystemExit(f"the undisturbed run ended with code {run.process.returncode}: {run.last_line}")
        return self.results(store)


def make_world(folder: Path, model: Literal["tiny", "smollm2"], num_jobs: int) -> World:
    """A study of about `num_jobs` jobs: prompts of each length × all layers × positions × three sites."""
    if model == "tiny":
        save_tiny_model(folder / "tiny-llama", num_layers=NUM_LAYERS[model])
    reference = folder / "tiny-llama" if model == "tiny" else Path("smollm2-135m")
    lengths = NUM_TOKENS[model]
    num_pairs = max(1, round(num_jobs / (sum(lengths) * NUM_LAYERS[model] * NUM_SITES)))
    pairs = [pair for length in lengths for pair in long_pairs(num_pairs, length)]
    study = write_study(folder, STUDY, reference, pairs)
    models = models_folder()
    shutil.rmtree(folder / "calm", ignore_errors=True)
    return World(folder, study, models if model != "tiny" and models.exists() else None)
