"""Five studies, run as a user runs them, and every row of five views by hand beside what the views say."""

import json
import os
import pickle
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import swapyard as sy
from orchestrator.query.connection import connect
from orchestrator.query.statements import run_query
from views import builtin, fits, fitted, numbers, scores, screened, stepwise, tiny
from views.cells import Job, Lane
from views.expected import Table
from views.plain import STEERING, Network

STUDIES = (numbers, fitted, screened, builtin, stepwise)
KEYS = {
    "results": ("study", "model", "dtype", "block", "job_id", "n", "position"),
    "scores": ("study", "model", "dtype", "block", "job_id", "n", "position", "role"),
    "runs": ("study", "model", "dtype", "pair_id", "run", "read"),
    "screening": ("model", "block", "cell_id"),
    "fits": ("model", "name", "site", "layer", "rank", "seed", "per"),
}
"""The columns that tell the rows of a view apart."""
KEPT = "SWAPYARD_TESTS_STUDIED"
"""The variable that names a folder of studies that ran before; the tests of views then run none."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Studied:
    """The studies when they are done."""

    folder: Path
    views: Any
    """The connection that sees them; its views are named as in `KEYS`."""
    seconds: Mapping[str, float]
    """How long each ran."""

    def ask(self, sql: str) -> Rows:
        """The rows of an answer, in the order in which they come."""
        relation = run_query(self.views, sql)
        return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]

    def columns(self, view: str) -> list[str]:
        """Those of a view."""
        return list(run_query(self.views, f"FROM {view}").columns)


def run(folder: Path) -> Studied:
    """Write the models and the study files, and run them on one core: threads that wait for each other make
    tiny models slower, not faster."""
    tiny.save(folder)
    (folder / "steering.py").write_text(STEERING, encoding="utf-8")
    save_file(_features(24, 30), folder / "features.safetensors")
    seconds = {}
    with _in(folder), _one_core():
        for one in STUDIES:
            file = folder / f"{one.NAME}.yaml"
            began = time.perf_counter()
            for study in _steps(one, folder):
                file.write_text(json.dumps(study), encoding="utf-8")
                sy.run(
                    str(file),
                    store=folder / "store",
                    executor="inline",
                    quiet=True,
                    trust=True,
                    on_failure="keep",
                )
            seconds[one.NAME] = time.perf_counter() - began
        return Studied(folder, _connected(folder), seconds)


def _steps(one: ModuleType, folder: Path) -> list[dict[str, Any]]:
    """What a study is asked for, one run after the other."""
    if one is stepwise:
        return [stepwise.study(folder, metrics) for metrics in stepwise.METRICS]
    return [one.study(folder)]


def _features(width: int, num_features: int) -> dict[str, Tensor]:
    """The weights of a sparse autoencoder."""
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "W_enc": (width, num_features),
        "W_dec": (num_features, width),
        "b_enc": (num_features,),
        "b_dec": (width,),
    }
    return {name: 0.3 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


@contextmanager
def _in(folder: Path) -> Iterator[None]:
    """In the folder, where the study's own function is found."""
    before, path = Path.cwd(), [*sys.path]
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path
        sys.modules.pop("steering", None)


@contextmanager
def _one_core() -> Iterator[None]:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@dataclass(frozen=True)
class Tables:
    """Views beside what they should be, each looked at when it is first asked for."""

    studied: Studied
    wanted: Mapping[str, Rows]
    _made: dict[str, Table] = field(default_factory=dict)

    def __getitem__(self, view: str) -> Table:
        if view not in self._made:
            texts = {*scores.AXES, *scores.PAIR_COLUMNS, *_own_columns(), "token", "read", "per"}
            wanted = [_shown(row, texts) for row in self.wanted[view]]
            found = [_shown(row, texts) for row in self.studied.ask(f"FROM {view}")]
            self._made[view] = Table.of(wanted, found, self.studied.columns(view), KEYS[view])
        return self._made[view]


def keep(studied: Studied, wanted: Mapping[str, Rows]) -> None:
    """Write down what is there of the studies besides their folder, for `kept`."""
    (studied.folder / "kept").write_bytes(pickle.dumps((studied.seconds, wanted)))


def kept(folder: Path) -> Tables:
    """Studies that ran before, with what their views should be: nothing is run to look at the views again."""
    seconds, wanted = pickle.loads((folder / "kept").read_bytes())
    with _one_core():
        return Tables(Studied(folder, _connected(folder), seconds), wanted)


def _connected(folder: Path) -> Any:
    return connect([folder / "store" / one.NAME for one in STUDIES])


def _shown(row: Mapping[str, Any], texts: set[str]) -> dict[str, Any]:
    """A row with one spelling for what users wrote: lists as JSON, numbers as text."""
    return {name: _text(value) if name in texts else value for name, value in row.items()}


def _text(value: Any) -> str | None:
    if isinstance(value, str) and value[:1] in "[{":
        value = json.loads(value)
    return value if value is None or isinstance(value, str) else json.dumps(value)


def by_hand(studied: Studied) -> dict[str, Rows]:
    """Every row of every view; ids of fits, revisions and drawn noise are taken from what was found."""
    found = {view: studied.ask(f"FROM {view}") for view in KEYS}
    revisions = {(row["model"], row["dtype"]): row["revision"] for row in found["runs"]}
    wanted: dict[str, Rows] = {view: [] for view in KEYS}
    for one in STUDIES:
        for lane, network in _lanes(studied, one, revisions):
            jobs = list(_rows(studied, one, lane, network, found, wanted))
            rows = [{**row, **_own(job)} for job, row in jobs]
            wanted["results"] += rows
            wanted["scores"] += [both for row in rows for both in scores.both_labels(row)]
            # Of each pair and read one job.
            alike = {(job.pair_id, job.cell["read"]): job for job, _ in jobs}
            wanted["runs"] += [row for job in alike.values() for row in scores.runs(network, job)]
    return wanted


def _lanes(
    studied: Studied, one: ModuleType, revisions: Mapping[tuple[str, str], str]
) -> Iterator[tuple[Lane, Network]]:
    """The models of a study, loaded with nothing but their own library."""
    if one is builtin:
        for options in builtin.OPTIONS:
            shown = ", ".join(f"{name}={options[name]}" for name in sorted(options))
            model = f"zoo:gpt({shown})"
            lane = Lane(model, "zoo:gpt", "float32", revisions[model, "float32"])
            words = [str(number) for number in range(options["vocab_size"])]
            yield lane, Network(_builtin(options), "zoo:gpt", 6, "float32", words)
        return
    from transformers import AutoModelForCausalLM

    for name, dtype in one.LANES:
        path = studied.folder / name
        module = AutoModelForCausalLM.from_pretrained(path, dtype=scores.torch_dtype(dtype)).eval()
        words = [word.replace(" ", "Ġ") for word in tiny.vocabulary(name)]
        lane = Lane(str(path), name, dtype, revisions[str(path), dtype])
        yield lane, Network(module, name, 6, dtype, words)


def _builtin(options: Mapping[str, Any]) -> torch.nn.Module:
    """A built-in model's own module, whose weights are drawn from its options."""
    from workers.model.loading import load
    from workers.model.references import resolve

    spec = sy.ModelSpec(ref="zoo:gpt", options=options, device="cpu")
    return load(spec, resolve(spec)).module.double().eval()


def _rows(
    studied: Studied,
    one: ModuleType,
    lane: Lane,
    network: Network,
    found: Mapping[str, Rows],
    wanted: dict[str, Rows],
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """The jobs of a lane that ran, with their rows of `results`; rows of other views go to `wanted`."""
    played: dict[int, Any] = {}
    estimates: Sequence[Any] = ()
    if one is numbers:
        jobs = list(numbers.jobs(lane))
        drawn = {row["job_id"]: row["collected"] for row in studied.ask("FROM activations")}
        noisy = (number for number, job in enumerate(jobs) if job.block == "noise")
        played = {number: _with_noise(jobs[number], network, drawn) for number in noisy}
    elif one is fitted:
        jobs = list(fitted.jobs(lane, _fits(studied, lane, network, found["fits"], wanted["fits"])))
    elif one is screened:
        ran = {row["cell_id"] for row in found["results"] if row["study"] == screened.NAME}
        cells = screened.cells(lane, network, ran)
        wanted["screening"] += [cell.row for cell in cells]
        jobs = [job for cell in cells for job, _ in cell.jobs_run]
        estimates = [estimate for cell in cells for _, estimate in cell.jobs_run]
    else:
        jobs = list(one.jobs(lane))
    rows = scores.results(network, jobs, played)
    for number, (job, row) in enumerate(zip(jobs, rows, strict=True)):
        yield job, {**row, "estimate": estimates[number]} if estimates else row


def _with_noise(job: Job, network: Network, drawn: Mapping[Any, Any]) -> dict[str, Any]:
    """What is done by hand where noise is drawn: what was collected there is written."""
    network.vectors[str(job.job_id)] = torch.tensor(drawn[job.job_id], dtype=torch.float64)
    written = {"operation": "vanilla", "run": "fit", "value_fit": str(job.job_id), "scale": 1}
    return {**job.cell, "units": [{**job.cell["units"][0], **written}]}


def _fits(
    studied: Studied, lane: Lane, network: Network, found: Sequence[Mapping[str, Any]], wanted: Rows
) -> dict[tuple[Any, ...], str]:
    """The identities of a lane's fits by what tells them apart; their rows of `fits` go to `wanted`.

    That the identities are those of these fits is seen by the ids of the cells that use them.
    """
    from orchestrator.stages.fit.store import FitFolder
    from orchestrator.store.storage import LocalStorage
    from workers.fits.fitted import decode_fitted

    folder = FitFolder(LocalStorage(studied.folder / "store" / fitted.NAME))

    def stored(fit: str) -> Any:
        kept = folder.read(fit)
        assert kept is not None
        return decode_fitted(kept.tensors, kept.about).content

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        per = None if row["per"] is None else json.loads(row["per"])["template"]
        return row["name"], row["site"], row["layer"], row["rank"], row["seed"], per

    ids = {key(row): row["fit"] for row in found if row["model"] == lane.model}
    by_name: dict[tuple[Any, ...], str] = {}
    for place in fits.places(lane):
        name, site, layer, _, _, rank, seed, template = place
        fit = ids[name, site, layer, rank, seed, template]
        by_name[name, layer, rank, seed, template] = fit
        most_s = studied.seconds[fitted.NAME]
        wanted.append(fits.row(place, lane, network, fit, stored, studied.folder, most_s))
    return by_name


def _own_columns() -> list[str]:
    """The columns that users gave, as `results` calls them."""
    rows = [row for one in STUDIES for row in one.PAIRS]
    return [scores.OWN.get(name, name) for name in scores.own_columns(rows)]


def _own(job: Job) -> dict[str, Any]:
    names = dict.fromkeys(_own_columns())
    return names | {
        scores.OWN.get(name, name): job.pair.row.get(name)
        for name in job.pair.row
        if name not in scores.PAIR_COLUMNS
    }
