"""Promise: a study trains, then sweeps what it trained; a killed training goes on, and ends bit-equal."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import environment

import swapyard as sy
from orchestrator.query.statements import named_queries
from orchestrator.run import schedule
from orchestrator.stages.train.store import TrainingFolder
from orchestrator.store.storage import LocalStorage
from studies.language.trained import trainings

SLICE_S = 0.05
MODEL = {
    "ref": "zoo:mlp",
    "vocab_size": 4,
    "num_inputs": 3,
    "width": 24,
    "num_layers": 3,
    "outputs": {"T1": {"classes": 10}, "T2": {"classes": 7, "reads": {"layer": 1, "subspace": "0:12"}}},
}
IIT: Mapping[str, Any] = {
    "seeds": [0, 1],
    "for": {"interchange": [1.0, 0.0]},
    "model": MODEL,
    "variables_of": {"T1": "O", "T2": "S"},
    "losses": [
        {"task": "T1"},
        {"interchange": "T1", "draw": {"S": 2, "x": 1}, "weight": "$interchange"},
    ],
    "optimizer": {"name": "AdamW", "lr": 3e-3},
    "schedule": {"name": "OneCycleLR", "max_lr": 3e-3},
    "num_epochs": 4,
    "batch_size": 8,
}
STUDY: Mapping[str, Any] = {
    "study": "sums",
    "task": {"name": "digit_sum", "values": 4, "num_train": 40, "num_test": 12, "seed": 0},
    "alignment": {
        "x": {"site": "block_input", "layer": 0, "subspace": "0:8"},
        "S": {"site": "block_output", "layer": 1, "subspace": "0:12"},
    },
    "train": {"iit": IIT},
    "sweep": [{"model": "iit", "variables": "all", "reads": ["T1", "T2"], "where": "split = 'test'"}],
}
LONG = {
    **STUDY,
    "train": {"iit": {**IIT, "seeds": [0], "for": None, "losses": IIT["losses"][:1], "num_epochs": 60}},
    "sweep": [{"model": "iit", "variable": "S", "where": "split = 'test'"}],
}
"""One training of 300 steps: several slices."""


@pytest.fixture(scope="module", autouse=True)
def _short_slices() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "MIN_SLICE_S", SLICE_S)
        yield


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> sy.Results:
    """Results of `STUDY`; who changes something there takes `copied`."""
    return ran_once(STUDY, tmp_path_factory.mktemp("sums"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> sy.Results:
    """Results of `LONG`, which nobody killed."""
    return ran_once(LONG, tmp_path_factory.mktemp("long"))


def ran_once(given: Mapping[str, Any], folder: Path) -> sy.Results:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWAPYARD_CACHE", str(folder / "cache"))
        return run(study(given), folder / "runs")


@pytest.fixture
def copied(sums: sy.Results, tmp_path: Path) -> Path:
    """The store of `sums` once more."""
    assert sums.outcome is not None
    return Path(shutil.copytree(sums.outcome.root.parent, tmp_path / "runs"))


def study(given: Mapping[str, Any], **changed: Any) -> sy.Study:
    data = {**given, **changed}
    train = {name: {k: v for k, v in one.items() if v is not None} for name, one in data["train"].items()}
    return sy.Study(**{**data, "train": train})


def run(made: sy.Study, store: Path, **options: Any) -> sy.Results:
    return sy.run(made, store=store, executor="inline", quiet=True, on_failure="keep", **options)


def killed(made: sy.Study, store: Path, fault: str) -> None:
    """The study run by a process that kills itself at a point."""
    (store.parent / "sums.yaml").write_text(made.to_yaml(), "utf-8")
    code = f"""if True:
        import swapyard as sy
        from orchestrator.run import schedule
        schedule.MIN_SLICE_S = {SLICE_S}
        sy.run("sums.yaml", store={str(store)!r}, executor="inline", quiet=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=store.parent,
        env=environment(Path(os.environ["SWAPYARD_CACHE"]), SWAPYARD_FAULTS=fault),
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL


def left(store: Path) -> list[str]:
    """The files of trainings, without the identities of those."""
    return sorted(path.name for path in (store / "sums" / "trainings").rglob("*.*"))


def test_every_training_is_swept_by_variable_and_output(sums: sy.Results) -> None:
    rows = sums.sql(
        "SELECT model, interchange, seed, read, variable, count(*) FROM results GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert rows == [
        ("iit", interchange, seed, read, variable, 12)
        for interchange in (0.0, 1.0)
        for seed in (0, 1)
        for read in ("T1", "T2")
        for variable in ("S", "x")
    ]


def test_what_the_sweep_finds_is_what_the_training_measured_last(sums: sy.Results) -> None:
    """The pairs, the places and the labels of both outputs are the same on either way."""
    swept = sums.sql(
        "SELECT interchange, seed, read, variable, avg(iia) FROM results GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    measured = sums.sql(
        "SELECT interchange, seed, head, variable, value FROM curves WHERE metric = 'interchange_accuracy'"
        " AND step = 20 ORDER BY ALL"
    ).fetchall()
    assert [row[:4] for row in swept] == [row[:4] for row in measured]
    assert [row[4] for row in swept] == pytest.approx([row[4] for row in measured])
    assert len({row[4] for row in swept}) > 1


def test_a_second_run_trains_nothing(sums: sy.Results, copied: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (copied / "sums" / "trainings").rglob("*.*")}
    second = run(study(STUDY), copied)
    assert second.outcome is not None and second.outcome.num_ran == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sums.sql("SELECT DISTINCT status FROM trainings").fetchall() == [("done",)]


def test_checkpoints_go_when_the_training_is_done_and_the_artifact_is_what_its_name_says(
    undisturbed: sy.Results,
) -> None:
    assert undisturbed.outcome is not None
    root = undisturbed.outcome.root
    names = left(root.parent)
    assert "done.json" in names and not [name for name in names if name.startswith("checkpoint")]
    ((sha256,),) = undisturbed.sql("SELECT artifact FROM trainings").fetchall()
    weights = (root / "artifacts" / f"{sha256}.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == sha256
    config = json.loads((root / "artifacts" / f"{sha256}.json").read_text("utf-8"))
    assert config["model"]["options"]["width"] == 24


@pytest.mark.parametrize(
    "fault",
    [
        "training.slice=kill@2",
        "training.checkpoint=kill@2",
        "training.artifact=kill@1",
        "remove.unlink.after=kill@1",
    ],
)
def test_a_killed_training_goes_on_and_ends_bit_equal(
    tmp_path: Path, undisturbed: sy.Results, fault: str
) -> None:
    killed(study(LONG), tmp_path / "b", fault)
    resumed = run(study(LONG), tmp_path / "b")
    columns = "status, step, artifact, num_executed, num_attempts, resumed_from"
    ((*found, attempts, resumed_from),) = resumed.sql(f"SELECT {columns} FROM trainings").fetchall()
    ((*expected, _, _),) = undisturbed.sql(f"SELECT {columns} FROM trainings").fetchall()
    assert found == expected and found[:2] == ["done", 300]
    # It did not start over, where there was anything to go on from.
    assert attempts == 2 and resumed_from[0] > 0
    curve = "SELECT * EXCLUDE study FROM curves ORDER BY ALL"
    assert resumed.sql(curve).fetchall() == undisturbed.sql(curve).fetchall()


def test_a_training_is_queried_while_it_runs(tmp_path: Path) -> None:
    killed(study(LONG), tmp_path / "b", "training.slice=kill@3")
    results = sy.open_results("sums", store=tmp_path / "b")
    ((status, step),) = results.sql("SELECT status, step FROM trainings").fetchall()
    ((last,),) = results.sql("SELECT max(step) FROM curves").fetchall()
    assert (status, last <= step, 0 < step < 300) == ("running", True, True)


def test_a_training_that_diverges_is_a_typed_failure_with_its_curve_and_so_are_its_cells(
    tmp_path: Path,
) -> None:
    bad = {**IIT, "seeds": [0], "for": {"lr": [1e-3, 1e30]}, "optimizer": {"name": "SGD", "lr": "$lr"}}
    bad |= {"losses": IIT["losses"][:1], "schedule": None}
    made = study(STUDY, train={"iit": bad}, sweep=LONG["sweep"])
    results = run(made, tmp_path)
    found = results.sql("SELECT lr, status, error_type FROM trainings ORDER BY lr").fetchall()
    assert found == [(1e-3, "done", None), (1e30, "failed", "DivergedError")]
    failures = results.sql(
        "SELECT lr, error_type, count(*), any_value(error_message) FROM failures GROUP BY ALL"
    ).fetchall()
    assert [row[:3] for row in failures] == [(1e30, "DivergedError", 12)]
    assert "the training of iit failed" in failures[0][3]
    assert results.sql("SELECT count(*) > 0 FROM curves WHERE lr = 1e30").fetchall() == [(True,)]
    assert results.sql("SELECT count(*) FROM results WHERE lr = 1e-3").fetchall() == [(12,)]
    again = run(made, tmp_path)
    assert again.sql("SELECT num_attempts FROM trainings WHERE lr = 1e30").fetchall() == [(1,)]
    retried = run(made, tmp_path, retry_failed=True)
    assert retried.sql("SELECT num_attempts FROM trainings WHERE lr = 1e30").fetchall() == [(2,)]


def test_a_failed_training_that_is_tried_again_fills_its_cells(
    tmp_path: Path, undisturbed: sy.Results
) -> None:
    folder = TrainingFolder(LocalStorage(tmp_path / "b" / "sums"))
    killed(study(LONG), tmp_path / "b", "training.slice=kill@2")
    (training,) = (path.name for path in (tmp_path / "b" / "sums" / "trainings").iterdir())
    folder.fail(training, 0, {"step": 1, "error_type": "OutOfMemoryError", "error_message": "full"})
    failed = run(study(LONG), tmp_path / "b")
    assert failed.sql("SELECT DISTINCT error_type FROM failures").fetchall() == [("OutOfMemoryError",)]
    retried = run(study(LONG), tmp_path / "b", retry_failed=True)
    assert retried.sql("SELECT count(*) FROM failures").fetchall() == [(0,)]
    rows = "SELECT label_id, pred_id, base_run_pred_id, label_logit FROM results ORDER BY pair_id"
    whole = undisturbed.sql(rows).fetchall()
    assert retried.sql(rows).fetchall() == whole and len(whole) == 12


def test_a_language_model_is_trained_on_text_and_swept(tmp_path: Path, tiny_folder: Path) -> None:
    countries, every = (
        ["Spain", "Italy", "France"],
        ["Spain", "Italy", "France", "Peru", "Rome", "Paris", "Lima"],
    )
    words = {**dict.fromkeys("xyz", countries), "O": every}
    made = {
        "study": "sums",
        "task": {
            **STUDY["task"],
            "values": 3,
            "num_train": 20,
            "text": " {x} of {y} is {z}",
            "words": words,
        },
        "alignment": {"x": {"site": "block_output", "layer": 0, "position": 0}},
        "train": {
            "iit": {
                "seed": 0,
                "model": str(tiny_folder),
                "losses": [{"task": "logits"}, {"interchange": "logits", "draw": ["x"]}],
                "optimizer": {"name": "Adam", "lr": 1e-3},
                "num_epochs": 20,
                "batch_size": 10,
            }
        },
        "sweep": [{"model": "iit", "variables": "all", "where": "split = 'test'"}],
    }
    results = run(sy.Study(**made), tmp_path)
    (status,) = results.sql("SELECT status, error_message FROM trainings").fetchall()
    assert status == ("done", None)
    curve = "SELECT value FROM curves WHERE split = '{}' AND metric = '{}' AND step = {}"
    ((first,),), ((last,),) = (
        results.sql(curve.format("train", "task_loss", step)).fetchall() for step in (2, 40)
    )
    assert last < 0.7 * first
    ((measured,),) = results.sql(curve.format("test", "interchange_accuracy", 40)).fetchall()
    assert results.sql("SELECT avg(iia), count(*) FROM results").fetchall() == [(pytest.approx(measured), 12)]
    # Labels are the tokens of the words, for the training as for the sweep.
    said = results.sql("SELECT DISTINCT pred_token FROM results WHERE iia = 1").fetchall()
    assert said and {token.strip(" Ġ") for (token,) in said} <= set(every)


def test_another_study_sweeps_what_was_trained(copied: Path) -> None:
    more = {
        "study": "more",
        "task": STUDY["task"],
        "sweep": [
            {
                "model": {"ref": "artifact:sums/iit", "interchange": 1.0},
                "site": "block_output",
                "layers": "all",
                "position": 0,
                "variable": "S",
                "read": "T1",
                "where": "split = 'test'",
            }
        ],
    }
    results = run(sy.Study(**more), copied)
    rows = results.sql(
        "SELECT model, interchange, seed, layer, count(*) FROM results GROUP BY ALL ORDER BY ALL"
    )
    assert rows.fetchall() == [
        ("artifact:sums/iit", 1.0, seed, layer, 12) for seed in (0, 1) for layer in (0, 1, 2)
    ]
    with pytest.raises(sy.StudyError, match="the study sums trains iit, and no 'it'"):
        run(
            sy.Study(**{**more, "model": "artifact:sums/it", "sweep": [{**more["sweep"][0], "model": None}]}),
            copied,
        )
    with pytest.raises(sy.StudyError, match="there is no study 'sum' in"):
        run(
            sy.Study(**{**more, "model": "artifact:sum/iit", "sweep": [{**more["sweep"][0], "model": None}]}),
            copied,
        )


def test_every_alignment_is_trained_and_swept_where_it_is(tmp_path: Path) -> None:
    """Seeds, alignments and widths are axes of one study, and of a second one that takes its models."""
    aligned = {"S": {"site": "block_output", "layer": "$depth", "subspace": "0:12"}}
    axes = [{"depth": 0, "width": 24}, {"depth": 1, "width": 24}, {"depth": 1, "width": 36}]
    losses = [{"task": "T1"}, {"interchange": "T1", "draw": ["S"]}]
    grid = {**IIT, "alignment": aligned, "for": axes, "model": {**MODEL, "width": "$width"}, "losses": losses}
    sweep = [{"model": "iit", "variables": "all", "read": "T1", "where": "split = 'test'"}]
    results = run(sy.Study(study="sums", task=STUDY["task"], train={"iit": grid}, sweep=sweep), tmp_path)
    found = "SELECT depth, width, seed, avg(iia) FROM results GROUP BY ALL ORDER BY ALL"
    measured = results.sql(
        "SELECT depth, width, seed, value FROM curves WHERE metric = 'interchange_accuracy' AND head = 'T1'"
        " AND step = 20 ORDER BY ALL"
    ).fetchall()
    rows = results.sql(found).fetchall()
    assert [row[:3] for row in rows] == [(*axis.values(), seed) for axis in axes for seed in (0, 1)]
    assert [row[3] for row in rows] == pytest.approx([row[3] for row in measured])
    layer = "(units->'$.units[0].place.layer')::INT"
    places = results.sql(f"SELECT DISTINCT depth, {layer} FROM cells ORDER BY ALL").fetchall()
    assert places == [(0, 0), (1, 1)]
    more = sy.Study(study="more", task=STUDY["task"], sweep=[{**sweep[0], "model": "artifact:sums/iit"}])
    assert run(more, tmp_path).sql(found).fetchall() == rows


def test_a_wider_sweep_trains_nothing_again_and_a_longer_training_everything(copied: Path) -> None:
    wider = [*STUDY["sweep"], {**STUDY["sweep"][0], "site": "block_output", "layer": 2, "position": 0}]
    results = run(study(STUDY, sweep=wider), copied)
    assert results.sql("SELECT DISTINCT num_attempts FROM trainings").fetchall() == [(1,)]
    assert results.sql("SELECT count(*) FROM results").fetchall() == [(2 * 4 * 2 * 2 * 12,)]
    longer = run(study(STUDY, train={"iit": {**IIT, "num_epochs": 5}}), copied, replace=True)
    assert longer.sql("SELECT DISTINCT step, num_attempts FROM trainings").fetchall() == [(25, 1)]


def test_the_page_works_as_written_and_its_control_does_not_learn_the_variable(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    (text, part), (query,) = (
        re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("yaml", "sql")
    )
    # The part of a study is one of this study.
    iit = {**yaml.safe_load(text)["train"]["iit"], **yaml.safe_load(part)["train"]["iit"]}
    losses = [{"task": "logits"}, {"interchange": "logits", "draw": ["S"], "weight": "$interchange"}]
    whole = sy.load_study(
        yaml.safe_dump({**yaml.safe_load(text), "train": {"iit": {**iit, "losses": losses}}})
    )
    assert len(trainings(whole, "O")) == 2 * 2 * 2
    results = run(sy.load_study(text), tmp_path)
    rows = results.sql(query).fetchall()
    assert {row[:3] for row in rows} == {(s, w, v) for s in (0, 1) for w in (0.0, 1.0) for v in ("S", "x")}
    found = results.sql(
        "SELECT interchange, min(iia), max(iia) FROM (SELECT interchange, seed, avg(iia) AS iia FROM results"
        " WHERE variable = 'S' GROUP BY ALL) GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    (_, _, control), (_, trained, _) = found
    assert trained > control + 0.3, found


def test_the_end_of_each_training_is_one_query(sums: sy.Results) -> None:
    rows = sums.sql(named_queries()["trained"].sql).fetchall()
    found = sums.sql(
        """SELECT study, name, interchange, metric, head, variable, min(value), max(value), count(*)
           FROM curves WHERE step = 20 AND split = 'test' AND metric LIKE '%accuracy' GROUP BY ALL"""
    ).fetchall()
    assert sorted(map(str, rows)) == sorted(map(str, found)) and {row[-1] for row in rows} == {2}
    assert len(rows) == 2 * 2 * 3
