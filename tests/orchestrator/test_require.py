"""Promise: what a worker's model can do is said before its first job and kept beside what it wrote; with
--require, or the key `require`, a worker that lacks it gets no job; a run without any worker exits 1."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running import capital_pairs, environment, swapyard, write_study

import swapyard as sy

WITHOUT_CACHE = """
import sys
from transformers.models.llama import modeling_llama

forward = modeling_llama.LlamaAttention.forward
def without_cache(self, *args, cache=None, past_key_values=None, **kwargs):
    return forward(self, *args, **kwargs)
modeling_llama.LlamaAttention.forward = without_cache
from orchestrator.cli import console
sys.argv = ["swapyard", *sys.argv[1:]]
console()
"""
"""A library in which attention is handed no cache, whatever the keyword: nothing can be resumed."""

LOUD = "WARNING: "


def run_without_cache(*arguments: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_CACHE, *map(str, arguments)],
        cwd=cwd,
        env=environment(cwd / "cache", PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=120,
    )


def zoo_study(tmp_path: Path, **keys: Any) -> Path:
    model = {"ref": "zoo:gpt", "width": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 9, "seed": 0}
    pairs = [{"base_ids": [1, 2, 3], "source_ids": [4, 5, 6], "label": 3, "base_label": 4}]
    sweep = [{"sites": ["mlp_output"], "layers": "all", "positions": "all"}]
    path = tmp_path / "zoo.yaml"
    content = {"study": "zoo", "model": model, "pairs": pairs, "sweep": sweep, **keys}
    path.write_text(json.dumps(content), "utf-8")
    return path


def test_a_family_that_does_not_resume_is_told_before_the_first_job_again_at_the_end_and_later(
    tmp_path: Path, tiny_folder: Path
) -> None:
    path = write_study(tmp_path, "small", tiny_folder, capital_pairs())
    done = run_without_cache("run", path, "--executor", "inline", "--no-plots", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    loud = [number for number, line in enumerate(lines) if LOUD in line]
    assert len(loud) == 2, done.stderr
    (closing,) = [number for number, line in enumerate(lines) if line.startswith("small: ")]
    assert loud[0] < loud[1] < closing
    assert "last seen to resume with transformers" in lines[loud[0]]
    results = sy.open_results("small", store=tmp_path / "runs")
    rows = results.sql("SELECT DISTINCT tier_reason, capability FROM batches").fetchall()
    assert [row[0] for row in rows] == ["hooked: LlamaForCausalLM takes no key/value cache"]
    reports = [json.loads(row[1])["abilities"]["resumed"]["reason"] for row in rows]
    assert reports == ["LlamaForCausalLM takes no key/value cache"]
    status = swapyard("status", "small", cwd=tmp_path, cache=tmp_path / "cache")
    assert "hooked" in status.stdout
    assert LOUD in status.stdout + status.stderr
    shown = json.loads(swapyard("status", "--json", cwd=tmp_path, cache=tmp_path / "cache").stdout)
    (report,) = shown[0]["models"].values()
    assert report["abilities"]["resumed"]["reason"] == "LlamaForCausalLM takes no key/value cache"


def test_with_require_no_job_runs_and_the_code_is_1(tmp_path: Path, tiny_folder: Path) -> None:
    path = write_study(tmp_path, "small", tiny_folder, capital_pairs())
    done = run_without_cache("run", path, "--executor", "inline", "--require", "resumed", cwd=tmp_path)
    assert done.returncode == 1
    assert "no worker is left on which" in done.stderr and "Traceback" not in done.stderr
    assert list((tmp_path / "runs" / "small" / "data").rglob("*.parquet")) == []
    # The same command, once the library is as it was, does the study.
    again = swapyard(
        *("run", path, "--executor", "inline", "--require", "resumed", "--no-plots"),
        cwd=tmp_path,
        cache=tmp_path / "cache",
    )
    assert again.returncode == 0, again.stderr
    assert "resumed, checked at load" in again.stderr and LOUD not in again.stderr


@pytest.mark.parametrize("keys", [{"require": "resumed"}, {"require": ["unchanged", "resumed"]}])
def test_a_study_may_require_it_too(tmp_path: Path, keys: dict[str, Any]) -> None:
    study = str(zoo_study(tmp_path, **keys))
    with pytest.raises(sy.RunError, match=r"no worker is left on which zoo:gpt.* has what is required"):
        sy.run(study, store=tmp_path / "runs", executor="inline", quiet=True)
    results = sy.run(str(zoo_study(tmp_path)), store=tmp_path / "runs", executor="inline", quiet=True)
    assert results.outcome is not None and results.outcome.counts.is_complete


def test_what_cannot_be_required_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(
        "study: odd\nmodel: zoo:gpt\nrequire: resumd\npairs: a.csv\nsweep: [{site: mlp_output}]\n"
    )
    with pytest.raises(sy.StudyError, match=r"odd.yaml:3: require: 'resumd' is not allowed.*'resumed'"):
        sy.load_study(str(path))


@pytest.mark.night
def test_under_ray_every_worker_is_asked_and_none_gets_a_job(tmp_path: Path) -> None:
    path = zoo_study(tmp_path)
    workers = min(2, len(os.sched_getaffinity(0)))
    options = ("--executor", "ray", "--workers", workers, "--require", "resumed")
    done = swapyard("run", path, *options, cwd=tmp_path, cache=tmp_path / "cache", num_cores=None)
    assert done.returncode == 1, done.stderr
    assert "gets no job, as --require asks" in done.stderr
    assert "no worker is left" in done.stderr
    assert list((tmp_path / "runs" / "zoo" / "data").rglob("*.parquet")) == []


def test_doctor_loads_a_model_and_says_what_it_can_do(tmp_path: Path, tiny_folder: Path) -> None:
    done = swapyard("doctor", tiny_folder, cwd=tmp_path, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok       resumed: jobs run from the first block and token that they change" in done.stdout
    broken = run_without_cache("doctor", tiny_folder, cwd=tmp_path)
    assert broken.returncode == 1
    assert "warning  resumed: no: LlamaForCausalLM takes no key/value cache" in broken.stdout
    assert "problem" in broken.stdout and "last seen to resume with" in broken.stdout
