"""Promise: a study's own function, named ``module:function``, changes values as written; one that is not
there is refused when the study is planned, and one that raises, returns a wrong shape or mixes rows makes
failed rows that say what to do."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from running import capital_pairs, start, write_study

import swapyard as sy
from workers.errors import StudyError

PLACE = {"site": "mlp_output", "layer": 1, "position": -1}
CODE = """
import torch

def taken(old, other):
    return other

def summed(old, other):
    old += other
    return old

def narrow(old, other):
    return old[:, :3]

def nothing(old, other):
    return None

def picky(old, other):
    if (old[:, 0] < LEAST + 1e-5).any():
        raise ValueError("not this one")
    return other

def noted(old, other):
    with open("seen", "a") as file:
        file.writelines(f"{float(value)!r}\\n" for value in old[:, 0])
    return other

def centred(old, other):
    return old - old.mean(0)

def drawn(old, other):
    return torch.randn_like(old)

half = 0.5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module of its own name."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def module(folder: Path, name: str, code: str = CODE) -> str:
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    return name


def run(folder: Path, model: Path, *sweep: Any, name: str = "own", **options: Any) -> sy.Results:
    study = sy.Study(study=name, model=str(model), pairs=capital_pairs(), sweep=sweep)
    return sy.run(
        study,
        store=folder / "store",
        **{"executor": "inline", "quiet": True, "on_failure": "keep", **options},
    )


def failures(results: sy.Results) -> dict[str, tuple[int, set[str]]]:
    """For each intervention how many rows failed, and of what."""
    found: dict[str, tuple[int, set[str]]] = {}
    rows = results.sql("SELECT intervention, error_type, error_message FROM failures").fetchall()
    for intervention, kind, message in rows:
        num, texts = found.get(intervention, (0, set()))
        found[intervention] = num + 1, texts | {f"{kind}: {message}"}
    return found


@pytest.mark.parametrize("more", [{}, {"subspace": "0:16"}, {"subspace": "R[0:2]"}])
def test_a_function_gives_what_the_same_operation_gives(
    folder: Path, tiny_folder: Path, more: dict[str, Any]
) -> None:
    name = module(folder, "own_same")
    block = {**PLACE, **more, "interventions": ["vanilla", f"{name}:taken", "add", f"{name}:summed"]}
    fits = {"R": {"method": "random_rotation", "rank": 4}}
    study = sy.Study(study="own", model=str(tiny_folder), pairs=capital_pairs(), fits=fits, sweep=[block])
    results = sy.run(study, store=folder, executor="inline", quiet=True)
    rows = results.sql(
        "SELECT intervention, list(label_logit ORDER BY pair_id) FROM results GROUP BY ALL"
    ).fetchall()
    found = dict(rows)
    assert found[f"{name}:taken"] == pytest.approx(found["vanilla"], abs=1e-6)
    assert found[f"{name}:summed"] == pytest.approx(found["add"], abs=1e-6)
    assert found["add"] != pytest.approx(found["vanilla"], abs=1e-6)
    assert failures(results) == {}


def test_what_is_wrong_with_a_function_is_said_in_its_rows(folder: Path, tiny_folder: Path) -> None:
    name = module(folder, "own_wrong")
    module(folder, "own_broken", "import own_lacking\ndef f(old, other): ...\n")
    module(folder, "own_ending", "import sys\nsys.exit(3)\ndef f(old, other): ...\n")
    functions = ("narrow", "nothing", "centred", "drawn", "taken")
    wrong = ["own_broken:f", "own_ending:f", *(f"{name}:{each}" for each in functions)]
    found = failures(run(folder, tiny_folder, {**PLACE, "interventions": ["vanilla", *wrong]}))
    assert {key: num for key, (num, _) in found.items()} == dict.fromkeys(wrong[:-1], 12)
    said = {key.removeprefix(f"{name}:"): " / ".join(sorted(texts)) for key, (_, texts) in found.items()}
    assert (
        "importing 'own_broken' raised ModuleNotFoundError: No module named 'own_lacking'"
        in said["own_broken:f"]
    )
    assert "(own_broken.py, line 1); correct the module" in said["own_broken:f"]
    assert "importing 'own_ending' raised SystemExit: 3 (own_ending.py, line 2)" in said["own_ending:f"]
    assert f"the operation {name}:narrow on [1, 32] returned [1, 3]; return a tensor" in said["narrow"]
    assert "returned NoneType; return a tensor of that shape" in said["nothing"]
    for each in ("centred", "drawn"):
        assert f"the function {name}:{each} does not give a row the same numbers again" in said[each]


def test_a_function_that_fails_on_one_value_fails_in_its_rows_alone(folder: Path, tiny_folder: Path) -> None:
    seen = module(folder, "own_seen", CODE)
    run(folder, tiny_folder, {**PLACE, "intervention": f"{seen}:noted"}, name="seen")
    least = min(map(float, (folder / "seen").read_text().split()))
    code = CODE.replace("LEAST", str(least))
    name = module(folder, "own_picky", code)
    results = run(folder, tiny_folder, {**PLACE, "interventions": ["vanilla", f"{name}:picky"]})
    ((key, (num, texts)),) = failures(results).items()
    assert (key, num) == (f"{name}:picky", 3), "three of the twelve pairs have that base"
    (text,) = texts
    assert text.startswith(
        f"RunError: the function {name}:picky raised ValueError: not this one (own_picky.py"
    )


def test_what_is_no_function_is_refused_when_the_study_is_planned(folder: Path, tiny_folder: Path) -> None:
    name = module(folder, "own_absent")
    wrong = ["own_nowhere:f", f"{name}:gone", f"{name}:half", f"{name}:torch", "os:remove"]
    with pytest.raises(StudyError) as caught:
        run(folder, tiny_folder, {**PLACE, "interventions": ["vanilla", *wrong]})
    lines = str(caught.value).splitlines()
    assert [line.split("'")[1] for line in lines] == wrong
    assert "there is no own_nowhere.py below" in lines[0] and "there is no os.py below" in lines[4]
    assert f"{name}.py has no 'gone'; it defines centred," in lines[1]
    assert f"{name}.py has half = 0.5 (line" in lines[2] and "only imports 'torch'" in lines[3]


def test_planning_imports_nothing(folder: Path, tiny_folder: Path) -> None:
    module(folder, "own_loud", "raise RuntimeError('imported')\ndef f(old, other): ...\n")
    study = write_study(
        folder, "own", tiny_folder, capital_pairs(), sweep=[{**PLACE, "intervention": "own_loud:f"}]
    )
    process = start("plan", study, "--trust", cwd=folder, cache=folder / "cache")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "imported" not in output + errors


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_the_command_finds_functions_beside_the_study_file(
    tmp_path: Path, tiny_folder: Path, executor: str
) -> None:
    (beside := tmp_path / "beside").mkdir()
    name = module(beside, "own_here")
    sweep = [{**PLACE, "intervention": f"{name}:taken"}]
    study = write_study(beside, "own", tiny_folder, capital_pairs(), sweep=sweep)
    arguments = ("run", study, "--executor", executor, "--no-plots", "--trust", "--store", tmp_path / "store")
    process = start(*arguments, cwd=tmp_path, cache=tmp_path / "cache", stderr=subprocess.STDOUT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    results = sy.open_results("own", store=tmp_path / "store")
    assert results.sql("SELECT count(*) FROM results").fetchall() == [(12,)]
    assert results.sql("SELECT count(*) FROM failures").fetchall() == [(0,)]
