"""Promise: code beside a study runs once its folder is trusted, by whatever front door; who is at no terminal
is told how in one line; the list of trusted folders survives whatever happens to it."""

import json
import os
import pty
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from running import SWAPYARD, swapyard

import swapyard as sy
from orchestrator import trust
from orchestrator.cli import cli
from studies.load import stored_study
from studies.problems import shown
from workers.errors import QueryError, StoreError, StudyError, UntrustedError

MODEL = '{ref: "zoo:mlp", vocab_size: 10, num_inputs: 3, width: 9, num_layers: 1, outputs: 28, seed: 0}'
STUDY = f"""
study: s
model: {MODEL}
task: {{name: causal, model: "sums:made", num_pairs: 10, seed: 0}}
sweep: [{{site: block_output, layer: 0, position: 0}}]
"""
SUMS = """
from pathlib import Path
from workers.causal.named import digit_sum
Path(__file__).with_name("RAN").touch()

def made():
    return digit_sum()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A study beside its own causal model, which notes that it ran."""
    (folder := tmp_path / "folder").mkdir()
    (folder / "sums.py").write_text(SUMS)
    (folder / "s.yaml").write_text(STUDY)
    return folder / "s.yaml"


def plan(file: Path, **more: Any) -> sy.Overview:
    return sy.plan(str(file), store=file.parents[1] / "runs", **more)


def has_run(file: Path) -> bool:
    return (file.parent / "RAN").exists()


def test_nobody_runs_the_code_of_a_folder_that_is_not_trusted(file: Path, tmp_path: Path) -> None:
    done = swapyard("run", file, "--store", tmp_path / "runs", cwd=tmp_path, cache=tmp_path / "cache")
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {file}:4: this study would run sums.py in {file.parent}, which is not")
    assert f"swapyard trust {file.parent}, or --trust" in line
    for door in (sy.plan, sy.run):
        for study in (str(file), sy.load_study(str(file))):
            with pytest.raises(UntrustedError, match="nothing was run"):
                door(study, store=tmp_path / "runs")
    assert not has_run(file) and not (tmp_path / "runs").exists()


def test_a_trusted_folder_is_not_asked_for_again_when_its_files_change(file: Path, tmp_path: Path) -> None:
    assert plan(file, trust=True).counts.num_jobs == 10 and has_run(file)
    with pytest.raises(UntrustedError):
        plan(file)
    (tmp_path / "link").symlink_to(file.parent)
    invoked = CliRunner().invoke(cli, ["trust", str(tmp_path / "link")])
    assert invoked.output == f"trusted, with all below it: {file.parent}\n"
    (file.parent / "sums.py").write_text(SUMS + "\nmore = 1\n")
    assert plan(file).counts.num_jobs == 10
    below = file.parent / "below" / "s.yaml"
    below.parent.mkdir()
    below.write_text(STUDY)
    (below.parent / "sums.py").write_text(SUMS)
    assert plan(below).counts.num_jobs == 10
    assert CliRunner().invoke(cli, ["trust", "--list"]).output == f"{file.parent}\n"
    assert CliRunner().invoke(cli, ["trust", "--remove", str(file.parent)]).exit_code == 0
    with pytest.raises(UntrustedError):
        plan(below)


def test_who_builds_a_study_in_python_needs_none(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    study = sy.Study(
        study="s",
        model={"ref": "zoo:mlp", "vocab_size": 10, "num_inputs": 3, "width": 9, "num_layers": 1}
        | {"outputs": 28, "seed": 0},
        task={"name": "causal", "model": "sums:made", "num_pairs": 10, "seed": 0},
        sweep=[{"site": "block_output", "layer": 0, "position": 0}],
    )
    assert sy.plan(study, store=file.parent / "runs").counts.num_jobs == 10
    with pytest.raises(UntrustedError):
        sy.plan(STUDY, store=file.parent / "runs")


@pytest.mark.parametrize("answer", ["no", "always"])
def test_a_terminal_is_asked_one_question_that_names_the_files(
    file: Path, tmp_path: Path, answer: str
) -> None:
    leader, follower = pty.openpty()
    environment = {**os.environ, "SWAPYARD_CACHE": str(tmp_path / "cache")}
    command = [str(SWAPYARD), "plan", str(file), "--store", str(tmp_path / "runs")]
    with subprocess.Popen(
        command, stdin=follower, stderr=follower, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        os.close(follower)
        said = b""
        while b"always here" not in said:
            said += os.read(leader, 4096)
        assert b"  sums.py" in said and not has_run(file)
        os.write(leader, f"{answer}\n".encode())
        out, _ = process.communicate(timeout=60)
    os.close(leader)
    assert (process.returncode, has_run(file)) == ((1, False) if answer == "no" else (0, True))
    assert (" 10 jobs" in out) == has_run(file)
    assert trust.is_trusted(file.parent) == (answer == "always")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"folders": "/"}', '{"folders": ["x"]}', '{"folders": [1]}', "\xff"]
)
def test_a_damaged_list_is_one_message(file: Path, text: str) -> None:
    trust.remember(file.parent)
    path = Path(os.environ["XDG_CONFIG_HOME"]) / "swapyard" / "trusted.json"
    path.write_bytes(text.encode("latin-1"))
    for doing in (lambda: plan(file), lambda: trust.remember(file.parent), trust.trusted_folders):
        with pytest.raises(
            StoreError, match=r"trusted\.json, the list of trusted folders, (is damaged|cannot be read)"
        ):
            doing()
    assert not has_run(file) and path.read_bytes() == text.encode("latin-1")
    assert plan(file, trust=True).counts.num_jobs == 10


def test_many_folders_trusted_at_once_are_all_kept(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(12)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(trust.remember, folders))
    assert set(trust.trusted_folders()) == set(folders)
    left = sorted(path.name for path in (Path(os.environ["XDG_CONFIG_HOME"]) / "swapyard").iterdir())
    assert left == [".trusted.json.lock", "trusted.json"]


def test_a_column_of_the_pairs_names_no_code_that_is_not_trusted(file: Path) -> None:
    (file.parent / "ops.py").write_text(SUMS + "\n\ndef f(old, other):\n    return other\n")
    task = next(line for line in STUDY.splitlines() if line.startswith("task"))
    pairs = "pairs: [{base_ids: [1, 2, 3], source_ids: [3, 2, 1], label: 1, base_label: 2, op: '%s'}]"
    unit = "position: 0, intervention: $pair.op"
    text = STUDY.replace(task, pairs).replace("position: 0", unit)
    file.write_text(text % "os:system")
    with pytest.raises(StudyError, match=r"there is no os\.py below"):
        plan(file)
    file.write_text(text % "ops:f")
    with pytest.raises(UntrustedError, match=r"would run ops\.py in"):
        plan(file)
    assert not has_run(file)


def test_no_study_file_says_that_code_of_a_model_may_run(file: Path) -> None:
    text = STUDY.replace("seed: 0}\n", "seed: 0, trust_remote_code: true}\n", 1)
    for wrong in (text, text.replace("true}", "false}")):
        file.write_text(wrong)
        with pytest.raises(StudyError) as caught:
            sy.load_study(str(file))
        assert str(caught.value).startswith(
            f"{file}:3: model.trust_remote_code: the key 'trust_remote_code' is"
        )
        assert "--trust-remote-code" in str(caught.value)
    spec = stored_study(text, "s").model
    assert isinstance(spec, sy.ModelSpec) and not spec.trust_remote_code
    kept = sy.ModelSpec(ref="m", trust_remote_code=True)
    assert kept.trust_remote_code and kept.model_dump()["trust_remote_code"] is False
    assert not sy.ModelSpec.stored({"ref": "m", "trust_remote_code": True}).trust_remote_code


@pytest.mark.parametrize("name", ["../../../x", "/abs/x", ".x", "", "a b", "x" * 101, "ü", "a\\b"])
def test_names_that_are_no_names_of_files_are_refused_with_their_line(name: str) -> None:
    quoted = json.dumps(name, ensure_ascii=False)
    parts = {
        "plots": "{kind: bars, x: layer, y: iia}",
        "fits": "{method: random_rotation, rank: 2}",
        "train": "{losses: [{task: logits}], optimizer: {name: SGD, lr: 1}, batch_size: 1, num_steps: 1,"
        " seed: 0}",
    }
    for key, what in parts.items():
        with pytest.raises(StudyError) as caught:
            sy.load_study(f"{STUDY}{key}:\n  {quoted}: {what}\n")
        assert f"<text>:7: {key}.{name}: {shown(name)} is not allowed as a name" in str(caught.value)
    if name:
        with pytest.raises(StudyError, match=r"<text>:5: .*name"):
            sy.load_study(STUDY.replace("[{site", f"[{{name: {quoted}, site"))


def test_a_picture_of_a_store_of_others_lies_in_its_own_folder(tmp_path: Path) -> None:
    from orchestrator.plots import _draw
    from studies.language.results import Plot

    for name in ("../x", "/x", "..", "a\0b", ""):
        with pytest.raises(QueryError, match="is no name for a picture"):
            _draw(tmp_path, None, Plot(kind="bars", x="layer", y="iia"), name, None, None, None)  # type: ignore[arg-type]
    text = STUDY + 'plots: {"of then": {kind: bars, x: layer, y: iia}}\n'
    assert list(stored_study(text, "s").plots or {}) == ["of then"]
