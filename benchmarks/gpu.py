"""All that a machine with a GPU is asked, in one go: ``make gpu``, or ``python -m benchmarks.gpu``.

Each part is a process with its own limit of time; after each, what was found until then is written into the
folder `--out`: ``gpu.md`` for people, ``gpu.json`` for programs, and a log a part. A part that fails or runs
out of time is told as such, and the next one begins.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.report import hardware, hardware_line

ROOT = Path(__file__).parents[1]
MOST_SHOWN = 60
"""Lines of a part's output that are kept in the report."""


@dataclass(frozen=True, slots=True)
class Part:
    """One question."""

    name: str
    about: str
    command: tuple[str, ...]
    limit_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a part."""

    name: str
    about: str
    state: str
    """``ok``, ``failed (code …)`` or ``out of time``."""
    seconds: float
    output: str


def parts(device: str, *, quick: bool) -> list[Part]:
    """In the order in which they are asked: what is most wanted first. Together below eight minutes."""
    python, more = sys.executable, ("--quick",) if quick else ()
    where = ("--device", device)
    chosen = ("-m", "cuda", "tests") if device.startswith("cuda") else ("tests/workers/test_cuda.py",)
    tests = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen)
    heads = (python, "-m", "benchmarks.heads", *where, *more)
    fits = (python, "-m", "benchmarks.fits", *where, "--rounds", "2", *more)
    only = () if quick else ("--only", "gpt2-small, 24")
    peers = (python, "-m", "benchmarks.peers", *where, "--rounds", "2", *only, *more)
    found = [
        Part("tests", "tests that need a device", tests, 100),
        Part("heads", "activation patching of all heads", heads, 90),
        Part("fits", "a step of DAS, ours and by hand", fits, 80),
    ]
    if not (ROOT / ".peers" / "bin" / "pip").exists():
        found.append(Part("install", "the other libraries", ("sh", "benchmarks/peers.sh"), 90))
    return [*found, Part("peers", "beside other libraries, one setting", peers, 110)]


def main() -> None:
    """Ask every part, and end with code 1 where one was not answered."""
    parser = argparse.ArgumentParser(description="All that a machine with a GPU is asked, in one go.")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the command [default: cuda]")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder of what is found")
    parser.add_argument("--quick", action="store_true", help="tiny models: whether it works")
    options = parser.parse_args()
    if options.device.startswith("cuda"):
        _check_device()
    options.out.mkdir(parents=True, exist_ok=True)
    answers: list[Answer] = []
    for part in parts(options.device, quick=options.quick):
        print(f"{part.name}: {part.about} (at most {part.limit_s:.0f} s)", flush=True)
        answers.append(ask(part, options.out))
        print(f"{answers[-1].output}\n{part.name}: {answers[-1].state}", flush=True)
        write(answers, options.out)
    sys.exit(any(answer.state != "ok" for answer in answers))


def _check_device() -> None:
    import torch

    if not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here; --device cpu tries the same command without one")


def ask(part: Part, out: Path) -> Answer:
    """Run a part to its end, or to its limit; all that it says goes to a file of its own."""
    log = out / f"{part.name}.log"
    began = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(
            part.command,
            cwd=ROOT,
            # The other libraries take the torch that is installed here, which is large.
            env={**os.environ, "PYTHONUNBUFFERED": "1", "TORCH_OF": sys.prefix},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(part.limit_s)
            state = "ok" if code == 0 else f"failed (code {code})"
        except subprocess.TimeoutExpired:
            # Its children, such as workers and peers, are in its group.
            os.killpg(process.pid, 9)
            process.wait()
            state = "out of time"
    lines = log.read_text("utf-8", "replace").splitlines()
    seconds = round(time.monotonic() - began, 1)
    return Answer(part.name, part.about, state, seconds, "\n".join(lines[-MOST_SHOWN:]))


def write(answers: Sequence[Answer], out: Path) -> None:
    """What was found until now."""
    found = {"hardware": hardware(), "parts": [asdict(answer) for answer in answers]}
    (out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    text = [f"# On {hardware()['gpu'] or 'a machine without a GPU'}", hardware_line()]
    for answer in answers:
        text += [f"## {answer.about}: {answer.state}, {answer.seconds:.0f} s", f"```\n{answer.output}\n```"]
    (out / "gpu.md").write_text("\n\n".join(text) + "\n", "utf-8")


if __name__ == "__main__":
    main()
