"""Promise: without names that Ray hides a run begins all the same, and is told what guards and watches it."""

import logging
import os
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.run import local_ray
from orchestrator.run.local_ray import LocalRay
from tests.workers.libraries.covering import outcome, without
from workers.errors import RunError
from workers.libraries import ray as library

pytestmark = pytest.mark.versions


@without("ray", "variables that switch off reports")
@without("ray", "RAY_AUTH_MODE")
def test_variables_that_ray_no_longer_knows_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert library._own_words()
    monkeypatch.setattr(library, "_own_words", lambda: "RAY_USAGE_STATS_ENABLED RAY_AUTH_MODE")
    assert outcome("ray", "variables that switch off").told == (
        "Ray does not know RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO, RAY_ENABLE_UV_RUN_RUNTIME_ENV"
    )
    assert outcome("ray", "RAY_AUTH_MODE").told == (
        "only the loopback guards a Ray of our own (RAY_AUTH_TOKEN gone)"
    )


@without("ray", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
def test_ports_that_others_reach_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = psutil.Process()
    with socket.socket() as closed, socket.socket() as open_:
        closed.bind(("127.0.0.1", 0))
        open_.bind(("0.0.0.0", 0))
        closed.listen()
        open_.listen()
        port = f"0.0.0.0:{open_.getsockname()[1]}"
        assert library.reachable([here]) == [port]
        ray = LocalRay(None, num_cpus=1)
        monkeypatch.setattr(psutil.Process, "children", lambda self: [here])
        with caplog.at_level(logging.WARNING, "swapyard.ray"):
            ray._watch()
    assert f"Ray listens at {port}, where other machines may reach it; its token guards it" in caplog.messages
    monkeypatch.setattr(library, "_started", lambda: {"ports": [port]})
    assert outcome("ray", "RAY_ENABLE_WINDOWS").told == (
        f"other machines can reach {port}: only the token guards them, and the log says so"
    )


@without("ray", "names of its processes")
def test_processes_of_other_names_are_not_watched_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ray = LocalRay(None, num_cpus=1)
    with caplog.at_level(logging.WARNING, "swapyard.ray"):
        ray._watch()
    assert caplog.messages == ["Ray's processes are not known by their names: one that ends is noticed late"]
    assert ray.fallen() is None
    monkeypatch.setattr(library, "_started", lambda: {"servers": ["raylet"]})
    assert outcome("ray", "names of its processes").told == "not watched: control server"


def test_a_process_that_renamed_itself_is_known_by_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    here = psutil.Process()
    monkeypatch.setattr(psutil.Process, "name", lambda self: "ray::raylet")
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: ["/site-packages/ray/raylet", "--x"])
    assert library.servers([here]) == {"raylet": here}


@without("ray", "RAY_worker_niceness=0")
def test_workers_that_stay_nicer_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_started", lambda: {"niceness": 15})
    assert outcome("ray", "RAY_worker_niceness=0").told == (
        "workers run 15 nicer than their driver, and starve beside other work"
    )


@without("ray", "JobConfig's _py_driver_sys_path")
def test_workers_that_import_from_where_a_study_is_run_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(library, "_started", lambda: {"imports": ["/elsewhere", str(tmp_path)]})
    place = "JobConfig's _py_driver_sys_path"
    assert outcome("ray", place).told == (
        "workers import from the folder that a study is run in: modules there are taken for ours"
    )
    monkeypatch.setattr(library, "_started", lambda: {"imports": ["/elsewhere"]})
    assert outcome("ray", place).state == "ok"
    monkeypatch.setattr(library, "_SEARCH_PATH", "_no_such_option_of_ray")
    assert library._job() == {}
    assert outcome("ray", place).told == "nobody can say what workers import from"


@without("ray", "the hidden option _temp_dir")
def test_a_ray_without_its_hidden_option_is_started_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[bool, bool]] = []

    def connect(options: dict[str, Any]) -> None:
        folder = Path(os.environ["RAY_TMPDIR"])
        tried.append(("_temp_dir" in options, folder.is_dir()))
        if "_temp_dir" in options:
            raise RuntimeError("Unknown keyword argument(s): _temp_dir")

    monkeypatch.setattr(local_ray, "connect", connect)
    before = os.environ.get("RAY_TMPDIR")
    ray = LocalRay(None, num_cpus=1)
    ray.start()
    assert tried == [(True, True), (False, True)]
    ray.stop()
    assert os.environ.get("RAY_TMPDIR") == before
    monkeypatch.setattr(library, "_started", lambda: {"is_folder_used": False})
    assert outcome("ray", "the hidden option").told.startswith("Ray keeps its files elsewhere")


def test_a_ray_that_starts_in_no_way_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(options: dict[str, Any]) -> None:
        raise TypeError("init() got an unexpected keyword argument 'log_to_driver'")

    monkeypatch.setattr(local_ray, "connect", connect)
    with pytest.raises(RunError, match=r"a local Ray did not start \(TypeError\); --executor inline runs"):
        LocalRay(None, num_cpus=1).start()


@without("ray", "RayTaskError.cause")
def test_an_error_without_its_cause_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("a trace\n  of lines\nValueError: of this kind\n")
    assert library.cause_of(error) is None
    error.__cause__ = ValueError("of this kind")
    assert library.cause_of(error) is error.__cause__
    error.cause = KeyError("k")  # type: ignore[attr-defined]
    assert isinstance(library.cause_of(error), KeyError)
    assert library.last_line(error) == "ValueError: of this kind"
    assert library.last_line(RuntimeError()) == "RuntimeError"
    monkeypatch.setattr(library, "_started", lambda: {"cause": "NoneType", "said": ""})
    assert outcome("ray", "RayTaskError.cause").told == (
        "errors of ours inside a worker end it instead of the run (NoneType)"
    )
