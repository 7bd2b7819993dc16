"""Names of Ray that may move: variables that keep it quiet and private, a hidden option, what its processes
are called, how it passes on errors. Ray itself is imported only where it is used."""

__all__ = [
    "PLACES",
    "cause_of",
    "connect",
    "environment",
    "last_line",
    "own_options",
    "reachable",
    "servers",
]

import importlib.util
import ipaddress
import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from workers.children import run
from workers.libraries import LibraryPlace

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Binds every port to the loopback."""
_AUTH_MODE, _AUTH_TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
_NICENESS = {"RAY_worker_niceness": "0"}
"""Added to that of its own processes, which is the driver's. Ray adds 15, and work beside it wins."""
_FOLDER, _FOLDER_VARIABLE = "_temp_dir", "RAY_TMPDIR"
_SERVERS = {"raylet": "raylet", "gcs_server": "control server"}
_SEARCH_PATH = "_py_driver_sys_path"
_MIB = 2**20


def environment(token: str, folder: Path) -> dict[str, str]:
    """Variables for a Ray of our own, which only who knows `token` can reach; it writes below `folder`."""
    return {
        **_QUIET,
        **_LOOPBACK,
        **_NICENESS,
        _AUTH_MODE: "token",
        _AUTH_TOKEN: token,
        _FOLDER_VARIABLE: str(folder),
    }


def own_options(folder: Path, num_cpus: int, *, is_plain: bool) -> dict[str, object]:
    """Options by which a Ray of our own is started; `is_plain` without options that Ray hides, for where they
    are gone."""
    hidden = {} if is_plain else {_FOLDER: str(folder)}
    return {
        # Without it Ray would join any cluster that it finds.
        "address": "local",
        "num_cpus": num_cpus,
        "object_store_memory": 80 * _MIB,
        "include_dashboard": False,
        **hidden,
    }


def connect(options: Mapping[str, Any]) -> None:
    """Start or join Ray, without a word on the terminal; raises whatever Ray raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import ray

        ray.init(**options, **_job(), log_to_driver=False, logging_level=logging.ERROR)


class _Only(list[str]):
    """Folders that workers import from before all others: Ray adds the driver's and the current one."""

    def __bool__(self) -> bool:
        """Also where there are none: Ray would make a list of its own."""
        return True

    def extend(self, folders: Iterable[str]) -> None:
        """Leave them out: a module of the user's would be taken for ours, or a library's."""


def _job() -> dict[str, Any]:
    """The option of a job whose workers import this package and what is installed, and nothing from where
    the driver stands."""
    from ray.job_config import JobConfig

    root = Path(__file__).resolve().parents[2]
    ours = [] if root.name in ("site-packages", "dist-packages") else [str(root)]
    options: dict[str, Any] = {_SEARCH_PATH: _Only(ours)}
    try:
        return {"job_config": JobConfig(**options)}
    except TypeError:
        return {}


def servers(children: Iterable[psutil.Process]) -> dict[str, psutil.Process]:
    """Processes of our own that Ray cannot go on without, by their names.

    One that is not found is not watched: its end shows only by that of all workers.
    """
    found: dict[str, psutil.Process] = {}
    for child in children:
        called = _SERVERS.get(_program(child))
        if called is not None:
            found[called] = child
    return found


def _program(process: psutil.Process) -> str:
    """The name of a process, or of the file that it runs where it has given itself another name."""
    try:
        name = process.name()
        if name in _SERVERS:
            return name
        return next((Path(part).name for part in process.cmdline()[:1]), name)
    except psutil.Error:
        return ""


def reachable(children: Iterable[psutil.Process]) -> list[str]:
    """Addresses that these processes listen on and that other machines can reach, as far as they show."""
    found: list[str] = []
    for child in children:
        try:
            listening = [one for one in child.net_connections() if one.status == psutil.CONN_LISTEN]
        except psutil.Error:
            continue
        found += [f"{one.laddr.ip}:{one.laddr.port}" for one in listening if not _is_local(one.laddr.ip)]
    return found


def _is_local(address: str) -> bool:
    return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback


def cause_of(error: BaseException) -> BaseException | None:
    """Exception raised in the worker, of which Ray's error tells; None where Ray does not say."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error.__cause__


def last_line(error: BaseException) -> str:
    """An error's own words: Ray puts a trace before them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


# What is tried by `make versions`


@cache
def _own_words() -> str:
    """The text of Ray's own Python files, those of its libraries left out."""
    found = importlib.util.find_spec("ray")
    assert found is not None and found.origin is not None
    root = Path(found.origin).parent
    files = [file for name in ("_private", "_common") for file in sorted((root / name).rglob("*.py"))]
    return "\n".join(file.read_text("utf-8", errors="ignore") for file in files)


def _not_mentioned(names: Iterable[str]) -> list[str]:
    return [name for name in names if name not in _own_words()]


def _probe_quiet() -> str | None:
    gone = _not_mentioned(_QUIET)
    return f"Ray does not know {', '.join(gone)}" if gone else None


def _probe_token() -> str | None:
    gone = _not_mentioned((_AUTH_MODE, _AUTH_TOKEN))
    return f"only the loopback guards a Ray of our own ({', '.join(gone)} gone)" if gone else None


@cache
def _started() -> Mapping[str, Any]:
    """Settings of a Ray of our own, in a process of its own: Ray reads its variables when it is imported."""
    done = run("workers.libraries.ray", timeout_s=120)
    if done.returncode != 0:
        raise RuntimeError(f"a local Ray does not start: {(done.stderr.splitlines() or ['?'])[-1]}")
    found: Mapping[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def _start() -> None:
    """Start a Ray of our own and print what it shows: its servers, the ports that others reach, whether its
    folder was used, the cause and the words of an error, and how much nicer a worker is than its driver."""
    folder = Path(tempfile.mkdtemp(prefix="swapyard-probe-", dir="/tmp"))
    os.environ.update(environment(secrets.token_hex(32), folder))
    is_plain = bool(_not_mentioned((_FOLDER,)))
    try:
        connect(own_options(folder, 1, is_plain=is_plain))
        children = psutil.Process().children(recursive=True)
        cause, said = _raised()
        shown = {
            "servers": list(servers(children)),
            "ports": reachable(children),
            "is_folder_used": not is_plain and any(folder.iterdir()),
            "cause": cause,
            "said": said,
            "niceness": _niceness_of_a_worker() - os.nice(0),
            "imports": _imports_of_a_worker(),
        }
        print(json.dumps(shown))
        import ray

        ray.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _raised() -> tuple[str, str]:
    """The kind of the cause of an error in a worker, and the error's own words."""
    import ray

    def fail() -> None:
        raise LookupError("of this kind")

    try:
        remote: Any = ray.remote(fail)
        ray.get(remote.remote(), timeout=60)
    except ray.exceptions.RayTaskError as error:
        return type(cause_of(error)).__name__, last_line(error)
    raise LookupError("a task that fails is no error")


def _niceness_of_a_worker() -> int:
    import ray

    def niceness() -> int:
        return os.nice(0)

    remote: Any = ray.remote(niceness)
    return int(ray.get(remote.remote(), timeout=60))


def _imports_of_a_worker() -> list[str]:
    """The folders that a worker imports from."""
    import ray

    def imports() -> list[str]:
        return list(sys.path)

    remote: Any = ray.remote(imports)
    return list(ray.get(remote.remote(), timeout=60))


def _probe_imports() -> str | None:
    if _not_mentioned((_SEARCH_PATH,)):
        return "nobody can say what workers import from"
    here = str(Path.cwd())
    is_ours = here == str(Path(__file__).resolve().parents[2])
    if here in _started()["imports"] and not is_ours:
        return "workers import from the folder that a study is run in: modules there are taken for ours"
    return None


def _probe_servers() -> str | None:
    gone = set(_SERVERS.values()) - set(_started()["servers"])
    return f"not watched: {', '.join(sorted(gone))}" if gone else None


def _probe_loopback() -> str | None:
    if ports := _started()["ports"]:
        return f"other machines can reach {', '.join(ports)}: only the token guards them, and the log says so"
    return None


def _probe_folder() -> str | None:
    return None if _started()["is_folder_used"] else "Ray keeps its files elsewhere, and nobody removes them"


def _probe_errors() -> str | None:
    cause, said = _started()["cause"], _started()["said"]
    if cause != "LookupError":
        return f"errors of ours inside a worker end it instead of the run ({cause})"
    return None if said == "LookupError: of this kind" else f"messages of errors are Ray's: {said}"


def _probe_niceness() -> str | None:
    added = _started()["niceness"]
    return f"workers run {added} nicer than their driver, and starve beside other work" if added else None


_SEEN = "2.55.0 to 2.60.0"

PLACES = (
    LibraryPlace(
        library="ray",
        name="variables that switch off reports, changes of CUDA_VISIBLE_DEVICES and the hook for uv",
        used_for="a quiet Ray, whose workers see the GPUs that they should",
        seen_with=_SEEN,
        without="Ray does what it does by itself",
        marks=tuple(_QUIET),
        probe=_probe_quiet,
    ),
    LibraryPlace(
        library="ray",
        name="RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, which binds all ports to the loopback",
        used_for="a Ray of our own that no other machine reaches",
        seen_with=_SEEN,
        without="ports are looked at once it runs: where others can reach them, the log says so",
        marks=tuple(_LOOPBACK),
        probe=_probe_loopback,
    ),
    LibraryPlace(
        library="ray",
        name="RAY_AUTH_MODE and RAY_AUTH_TOKEN",
        used_for="a Ray of our own that no other user of this machine can use",
        seen_with=_SEEN,
        without="only the loopback guards it",
        marks=(_AUTH_MODE, _AUTH_TOKEN),
        probe=_probe_token,
    ),
    LibraryPlace(
        library="ray",
        name="RAY_worker_niceness=0, which its processes read when they start",
        used_for="workers of a Ray of our own that run as their driver does",
        seen_with=_SEEN,
        without="workers are 15 nicer than their driver: slow wherever anything else runs",
        marks=tuple(_NICENESS),
        probe=_probe_niceness,
    ),
    LibraryPlace(
        library="ray",
        name="the hidden option _temp_dir of init",
        used_for="a folder for its sockets and logs that is removed with it",
        seen_with=_SEEN,
        without="a second try leaves it out and takes RAY_TMPDIR",
        marks=(_FOLDER, _FOLDER_VARIABLE),
        probe=_probe_folder,
    ),
    LibraryPlace(
        library="ray",
        name="names of its processes: raylet, gcs_server",
        used_for="noticing at once that Ray is gone, and resuming those that somebody stopped",
        seen_with=_SEEN,
        without="a Ray that is gone shows by the end of its workers, and the log says so",
        marks=("gcs_server",),
        probe=_probe_servers,
    ),
    LibraryPlace(
        library="ray",
        name="JobConfig's _py_driver_sys_path, to which Ray adds the folders of the driver",
        used_for="workers that take no module of the user's folder for ours",
        seen_with=_SEEN,
        without="a user's own workers.py or tqdm.py beside their studies may keep workers from starting",
        marks=(_SEARCH_PATH,),
        probe=_probe_imports,
    ),
    LibraryPlace(
        library="ray",
        name="RayTaskError.cause, and a trace whose last line is the error itself",
        used_for="ending a run with our own errors of a worker, in their own words",
        seen_with=_SEEN,
        without="the exception's own cause is taken; else the worker counts as dead, with Ray's words",
        marks=("error.cause",),
        probe=_probe_errors,
    ),
)

if __name__ == "__main__":
    _start()
