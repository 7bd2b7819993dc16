"""Heads of Ray clusters for tests, each in a process of its own that is ended by whoever started it."""

import socket
import subprocess
import time
from pathlib import Path

from running import SWAPYARD


def start_head(
    hiding: tuple[str, ...], given: dict[str, str], log: Path
) -> "tuple[subprocess.Popen[bytes], int]":
    """The head of a cluster that answers, and its port; one that another process took first is given up."""
    for _ in range(3):
        port = free_port()
        with log.open("ab") as output:
            head = subprocess.Popen(
                [
                    *hiding,
                    *(str(SWAPYARD.with_name("ray")), "start", "--head", "--block", f"--port={port}"),
                    *("--num-cpus=2", "--node-ip-address=127.0.0.1", "--include-dashboard=false"),
                    f"--object-store-memory={80 * 2**20}",
                ],
                env=given,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + 90
        while head.poll() is None and time.monotonic() < deadline:
            if answers(port):
                return head, port
            time.sleep(0.2)
        head.terminate()
        head.wait(timeout=60)
    raise AssertionError(f"no head of a Ray cluster came up: {log.read_text()}")


def answers(port: int) -> bool:
    with socket.socket() as tried:
        tried.settimeout(1)
        return tried.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def hide(folder: Path) -> tuple[str, ...]:
    """What a command begins with to see an empty `folder`; nothing where no user may mount."""
    mount = f'mount -t tmpfs tmpfs "{folder}" && exec "$0" "$@"'
    prefix = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount)
    try:
        allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    return prefix if allowed else ()
