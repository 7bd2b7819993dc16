"""Promise: the command line comes at once, says what is wrong in one message, and keeps data apart from talk.

Errors are tried on the console's own entry point, in this process: anything unforeseen fails the test.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from running import SWAPYARD, capital_pairs, environment, swapyard, write_study
from small_store import make_study

from orchestrator.cli import main

COMMANDS = ("plan", "run", "status", "query", "plot", "sites", "models")
MODEL_LIBRARIES = {"torch", "transformers", "ray"}
DATA_LIBRARIES = {"duckdb", "pyarrow", "pydantic", "numpy"}


class End(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., End]:
    def run(*arguments: object) -> End:
        monkeypatch.setattr(sys, "argv", ["swapyard", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            assert isinstance(end.code, int)
            code = end.code
        return End(code, *capsys.readouterr())

    return run


def imported_by(*arguments: object, folder: Path) -> set[str]:
    """The packages that a real command loads."""
    done = swapyard(
        *arguments,
        cwd=folder,
        cache=folder / "cache",
        env=environment(folder / "cache", PYTHONPROFILEIMPORTTIME="1"),
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert len(lines) > 50
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_comes_at_once_and_loads_nothing_heavy(command: tuple[str, ...], tmp_path: Path) -> None:
    assert imported_by(*command, "--help", folder=tmp_path).isdisjoint(MODEL_LIBRARIES | DATA_LIBRARIES)
    shown = subprocess.run([SWAPYARD, *command, "--help"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith(f"Usage: swapyard {' '.join(command)}".strip()) and shown.stderr == ""


def test_planning_and_asking_load_no_model_library(tmp_path: Path, tiny_folder: Path) -> None:
    make_study(tmp_path / "runs" / "small")
    study = write_study(tmp_path, "countries", tiny_folder, capital_pairs())
    for command in (("plan", study), ("status",), ("query", "SELECT count(*) FROM results")):
        assert imported_by(*command, folder=tmp_path).isdisjoint(MODEL_LIBRARIES), command


def test_the_version_is_the_packages(call: Callable[..., End]) -> None:
    from importlib.metadata import version

    assert call("--version").out == f"swapyard, version {version('swapyard')}\n"


def test_data_goes_to_stdout_and_talk_to_stderr(tmp_path: Path, tiny_folder: Path) -> None:
    study = write_study(tmp_path, "countries", tiny_folder, capital_pairs())
    here: dict[str, Any] = {"cwd": tmp_path, "cache": tmp_path / "cache"}
    ran = swapyard("run", study, **here)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("site ") and "jobs done" not in ran.stdout
    assert "540 jobs done" in ran.stderr and "drew runs/countries/plots" in ran.stderr
    for command in (
        ["status", "--json"],
        ["plan", str(study), "--json"],
        ["query", "FROM cells", "--format", "json"],
    ):
        done = swapyard(*command, **here)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)
    planned = swapyard("plan", study, **here)
    assert "45 cells, 540 jobs" in planned.stdout and "540 jobs are done already" in planned.stdout


@pytest.mark.parametrize(
    "command",
    ["status --json", "query 'FROM scores' --rows 100000", "query 'FROM scores' --format csv", "--help"],
)
def test_a_reader_that_has_enough_is_no_error(command: str, tmp_path: Path) -> None:
    make_study(tmp_path / "runs" / "small")
    piped = subprocess.run(
        ["bash", "-c", f"set -o pipefail; swapyard {command} | head -1"],
        cwd=tmp_path,
        env=environment(tmp_path / "cache"),
        capture_output=True,
        text=True,
    )
    assert (piped.returncode, piped.stderr) == (0, "")
    assert len(piped.stdout.splitlines()) == 1


def swept(**block: Any) -> dict[str, Any]:
    return {"sweep": [{"site": "block_output", "layers": "all", "positions": "all"} | block]}


BROKEN_STUDIES: dict[str, tuple[dict[str, Any], str]] = {
    "no-folder": ({"model": "./missing"}, "model folder .*missing does not exist; check the path"),
    "no-model": ({"model": "smollm2-135"}, "did you mean 'smollm2-135m'"),
    "zoo": ({"model": "zoo:mlp"}, "model 'zoo:mlp' needs the option 'width'; it needs width, num_layers"),
    "dtype": ({"model": {"ref": "MODEL", "dtype": "float12"}}, r":1: model\.dtype: 'float12' .*'float32'"),
    "revision": (
        {"model": {"ref": "MODEL", "revision": "abc"}},
        "pins revision abc, but the files .* hash to",
    ),
    "site": (swept(site="block_outptu"), r":1: sweep\[0\]\.site: .*did you mean 'block_output'\?"),
    "layer": ({"sweep": [{"site": "mlp_output", "layer": 99, "position": 0}]}, "the model has layers 0 to 2"),
    "head": (
        swept(site="attention_value_output", heads=[9]),
        "head 9 is not there; the model has heads 0 to 3",
    ),
    "dimensions": (swept(subspace="0:999"), "0:999 reaches beyond .* 32 dimensions; end it at 32"),
    "position": (
        {"sweep": [{"site": "mlp_output", "layer": 0, "position": 99}]},
        "position 99 does not exist in 12",
    ),
    "operation": (swept(intervention="explode"), "'explode' is not allowed here; allowed: vanilla, add"),
    "source": (swept(**{"from": "source_2"}), "such as pair 0, which has only base, source"),
    "colour": (swept(colour="red"), r":1: sweep\[0\]\.colour: the key 'colour' is not allowed here"),
    "nothing-to-do": ({"sweep": []}, r":1: sweep: \[\] is not allowed here"),
    "no-pairs": ({"pairs": []}, "a list of pairs that is not empty"),
    "no-base": ({"pairs": [{"source": "The"}]}, r"pairs\[0\]: the column 'base' is missing"),
    "label": (
        {"pairs": [{"base": "The", "source": "The", "label": " is Rome"}]},
        "give a label of one token",
    ),
    "lengths": ({"pairs": [{"base": "The a", "source": "The", "label": " a"}]}, "needs equal token counts"),
    "no-file": ({"pairs": "missing.jsonl"}, "missing.jsonl: the pairs cannot be read"),
    "file-kind": ({"pairs": "pairs.xml"}, r"a path that ends in \.jsonl, \.csv, \.parquet"),
    "where": (swept(where="base ~~~"), "where: 'base ~~~' cannot be answered"),
    "where-column": (swept(where="capital = 3"), "the pairs' columns are base, source, base_label, label"),
    "where-none": (swept(where="base = 'x'"), "keeps 0 of 12 pairs"),
    "metric": ({"metrics": ["accuracy"]}, r"metrics\[0\]: 'accuracy' is not allowed here; allowed: iia"),
    "name": ({"study": "../evil"}, "'../evil' is not allowed here; allowed: a folder's name"),
}


@pytest.mark.parametrize("name", BROKEN_STUDIES)
def test_a_broken_study_is_one_clear_message(
    name: str, tmp_path: Path, tiny_folder: Path, call: Callable[..., End], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    changes, message = BROKEN_STUDIES[name]
    text = json.dumps(
        {"study": name, "model": str(tiny_folder), "pairs": capital_pairs(), **swept(), **changes}
    )
    study = tmp_path / f"{name}.yaml"
    study.write_text(text.replace('"MODEL"', json.dumps(str(tiny_folder))), encoding="utf-8")
    for command in ("plan", "run"):
        end = call(command, study, "--store", tmp_path / "runs")
        assert (end.code, end.out) == (1, "")
        (line,) = end.err.splitlines()
        assert line.startswith("Error: ") and re.search(message, line), end.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"study: [\n", r"study\.yaml:2: this is no YAML"),
        (b"", r"study\.yaml:1: a study file holds one document; this one holds 0"),
        (b"study: a\nmodel: b\n", r"study\.yaml:1: .*'sweep' is missing"),
        (
            b"study: a\nmodel: gpt2\nsweeps:\n  - {site: mlp_output}\n",
            r"study\.yaml:3: sweeps: .* mean 'sweep'\?",
        ),
        (b"study: \xff\n", r"study\.yaml:1: byte 8 of the line, 0xff, is no UTF-8"),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    content: bytes, message: str, tmp_path: Path, call: Callable[..., End]
) -> None:
    (tmp_path / "study.yaml").write_bytes(content)
    end = call("run", tmp_path / "study.yaml", "--store", tmp_path)
    assert end.code == 1 and end.out == ""
    assert re.match(rf"Error: .*{message}", end.err), end.err


NEWER = '{"format": "swapyard study", "version": 99}'


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("rnu", 2, "no such command 'rnu'; there are plan, run, .*; did you mean 'run'?"),
        ("--colour", 2, "No such option '--colour'"),
        ("run", 2, "Missing argument 'STUDY'"),
        ("run STUDY --wrokers 2", 2, "No such option '--wrokers'. Did you mean '--workers'?"),
        ("run STUDY --executor spark", 2, "'spark' is not one of 'auto', 'inline', 'ray'"),
        ("run STUDY --workers 0", 2, "0 is not in the range x>=1"),
        ("run STUDY --workers 9999", 2, r"9999: this machine has \d+ cores"),
        ("run STUDY --workers 2 --executor inline", 2, "inline is one worker in this process"),
        ("run STUDY --store FILE", 2, "'.*file' is a file"),
        ("run STUDY --store FILE/below", 1, "cannot be read or written: not a directory"),
        (
            "run STUDY --store STRANGERS",
            1,
            r"holds no study but other things \('x'\); name an empty or a new folder",
        ),
        ("run STUDY --store DAMAGED", 1, "is not that of a study; name another folder with --store"),
        ("run STUDY --store NEWER", 1, r"has format 99, and this version reads up to \d+; upgrade swapyard"),
        ("query SQL --store DAMAGED", 1, "is not that of a study"),
        ("status --store NOWHERE", 1, "there is no study in .*nowhere. Make one with: swapyard run STUDY"),
        ("status countries", 1, "runs has no study 'countries'. Make one with"),
        ("query --store NOWHERE SQL", 1, "there is no study in"),
        ("run capital", 1, "bundled studies: capitals, .*; did you mean 'capitals'?"),
        ("plan FOLDER", 1, "no such study file"),
        ("sites ./missing", 1, "model folder .*missing does not exist"),
        ("sites", 2, "Missing argument 'MODEL'"),
        ("query", 2, "give one of SQL, the NAME of a query, and -f FILE"),
        ("plot pie", 2, "[Nn]o such command 'pie'"),
        ("models fetch zoo:mlp", 1, "model 'zoo:mlp' is built in: there is nothing to fetch"),
    ],
)
def test_a_wrong_command_line_is_one_clear_message(
    arguments: str,
    code: int,
    message: str,
    tmp_path: Path,
    tiny_folder: Path,
    call: Callable[..., End],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {
        "STUDY": write_study(tmp_path, "countries", tiny_folder, capital_pairs()),
        "SQL": "FROM results",
        "FOLDER": tmp_path,
        "FILE": tmp_path / "file",
        "NOWHERE": tmp_path / "nowhere",
        "STRANGERS": tmp_path / "strangers",
        "DAMAGED": tmp_path / "damaged",
        "NEWER": tmp_path / "newer",
    }
    (tmp_path / "file").touch()
    formats = {
        "strangers/countries/x": "",
        "damaged/countries/format.json": '{"format": ',
        "newer/countries/format.json": NEWER,
    }
    for name, text in formats.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    given = [
        re.sub("|".join(places), lambda found: str(places[found[0]]), word) for word in arguments.split()
    ]
    end = call(*given)
    assert (end.code, end.out) == (code, "")
    assert re.search(message, end.err), end.err
    lines = end.err.splitlines()
    assert sum("Error: " in line for line in lines) == 1
    assert len(lines) == (4 if code == 2 else 1)


AS_NOBODY = """
import os, sys, orchestrator.cli.status, orchestrator.upkeep.status, orchestrator.cli
os.setuid(65534)
orchestrator.cli.main()
"""


def test_a_study_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    make_study(tmp_path / "runs" / "small")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    (tmp_path / "runs" / "small").chmod(0o700)
    refused = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, "status", "--store", tmp_path / "runs"],
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1, refused
    assert re.fullmatch(r"Error: .* may not be read or written \(permission denied\); .*\n", refused.stderr)


def test_escapes_in_a_name_do_not_reach_the_terminal(tmp_path: Path, call: Callable[..., End]) -> None:
    end = call("status", "\x1b[2Jgone", "--store", tmp_path)
    assert end.code == 1
    assert "\x1b" not in end.err
