"""Model folders of which nobody would think, given to planning and to loading, one fork each.

    python -m tests.model_folders plan --seed 0 --num 300 [--first N]
    python -m tests.model_folders load …

Keys of config.json, words of tokenizer.json, headers and bytes of the weights are changed; the same
seed and number give the same folder. A line for each traceback, and for what took too long or too much
memory; the last line sums up. The exit code is 1 where there was one.
"""

__all__ = ["main"]

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.odd_folders import change

MOST_CPU_S = 10.0
MOST_MB = {"plan": 1000.0, "load": 1500.0}
_MOST_WALL_S = 120.0
_KINDS = ("llama", "gpt2", "gpt_neox", "bloom")
_REFUSED, _ESCAPED = 1, 99

_STUDY = """study: small
model: ./model
pairs:
  - {base: The capital of Spain is, source: The capital of Italy is, base_label: " Madrid", label: " Rome"}
  - {base: The capital, source: The city of, base_label: " of", label: " Lima"}
sweep: [{site: block_output, layers: all, position: -1}]
"""


def main(arguments: Sequence[str]) -> int:
    """Fuzz as told; 0 where every folder was taken or refused as it should be."""
    options = _parser().parse_args(arguments)
    root = Path(tempfile.mkdtemp(prefix="swapyard-models-")).resolve()
    try:
        _settle(root, options.what)
        faults = _all(root, options)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 1 if faults else 0


def _all(root: Path, options: argparse.Namespace) -> int:
    counts: dict[str, int] = {}
    work = _planned if options.what == "plan" else _loaded
    for number in range(options.first, options.first + options.num):
        draw = random.Random(f"{options.seed}/{number}")
        case = root / "case"
        shutil.copytree(root / draw.choice(_KINDS), case / "model")
        told = [change(draw, case / "model") for _ in range(draw.choice((1, 1, 1, 2, 3)))]
        (case / "study.yaml").write_text(_STUDY)
        code, said, cpu_s, peak_mb = _forked(work, case)
        lines = [line for line in said.splitlines() if line.strip()]
        fault = _fault(code, said, cpu_s, peak_mb, options.what)
        counts[fault or ("taken" if code == 0 else "refused")] = counts.get(fault or str(code), 0) + 1
        if fault is not None:
            print(f"{number} {'; '.join(told)}: {fault}: {' '.join(lines[-1:])[:300]}", flush=True)
        elif options.verbose:
            print(f"{number} {'; '.join(told)}: {code}: {' '.join(lines[-1:])[:300]}", flush=True)
        counts["all"] = counts.get("all", 0) + 1
        counts["faults"] = counts.get("faults", 0) + (fault is not None)
        shutil.rmtree(case)
    print(f"{options.what}: {counts.get('all', 0)} folders, {counts.get('faults', 0)} faults", flush=True)
    return counts.get("faults", 0)


def _fault(code: int, said: str, cpu_s: float, peak_mb: float, what: str) -> str | None:
    if "Traceback" in said or code not in (0, _REFUSED):
        return f"a traceback, or exit {code}"
    if cpu_s > MOST_CPU_S:
        return f"{cpu_s:.0f} s"
    return f"{peak_mb:.0f} MB" if peak_mb > MOST_MB[what] else None


# How it is tried


def _settle(root: Path, what: str) -> None:
    """Tiny models, folders of this run's own, and all that is slow to import."""
    child = os.fork()
    if child == 0:
        _save_models(root)
        os._exit(0)
    os.waitpid(child, 0)
    for name in ("home", "cache"):
        (root / name).mkdir()
    own = {"HOME": str(root / "home"), "XDG_CONFIG_HOME": str(root / "home"), "HF_HUB_OFFLINE": "1"}
    os.environ |= {**own, "SWAPYARD_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    import orchestrator.overview  # noqa: F401
    import studies  # noqa: F401

    if what == "load":
        import torch

        import workers.model.loading  # noqa: F401

        torch.set_num_threads(1)
        for kind in _KINDS:
            import_module(f"transformers.models.{kind}.modeling_{kind}")


def _save_models(root: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.torture.tiny import save_tiny_model

    save_tiny_model(root / "llama", num_layers=2)
    size = json.loads((root / "llama" / "config.json").read_text())["vocab_size"]
    sizes: dict[str, dict[str, Any]] = {
        "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
        "gpt_neox": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
        },
        "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    }
    for kind, more in sizes.items():
        torch.manual_seed(0)
        ids = {"bos_token_id": 1, "eos_token_id": 2}
        config = AutoConfig.for_model(kind, vocab_size=size, **ids, **more)
        AutoModelForCausalLM.from_config(config).save_pretrained(root / kind)
        shutil.copy(root / "llama" / "tokenizer.json", root / kind)


def _planned() -> None:
    from orchestrator.cli import main as swapyard

    sys.argv = ["swapyard", "plan", "study.yaml"]
    swapyard()


def _loaded() -> None:
    """Load, and run a prompt: what Python's door does with a folder."""
    from workers.errors import SwapyardError
    from workers.model.loading import load
    from workers.model.references import resolve
    from workers.modelspec import ModelSpec

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec = ModelSpec(ref="./model")
            load(spec, resolve(spec), device="cpu")
    except SwapyardError as error:
        print(f"Error: {error}")
        raise SystemExit(_REFUSED) from None


def _forked(work: Callable[[], None], folder: Path) -> tuple[int, str, float, float]:
    """Exit code, what was said, CPU seconds and peak memory in MB of `work` in a fork, in `folder`."""
    said = folder.parent / "said"
    child = os.fork()
    if child == 0:
        _be_child(work, folder, said)
    end = time.monotonic() + _MOST_WALL_S
    done = 0
    while not done:
        done, status, used = os.wait4(child, os.WNOHANG)
        if not done and time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0 if done else 0.005)
    text = said.read_text("utf-8", "replace")
    return os.waitstatus_to_exitcode(status), text, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def _be_child(work: Callable[[], None], folder: Path, said: Path) -> None:
    code = _ESCAPED
    try:
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(out, stream)
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            work()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        except BaseException:
            traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.model_folders", description=__doc__.splitlines()[0]
    )
    parser.add_argument("what", choices=("plan", "load"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="the number of the first folder")
    parser.add_argument("--verbose", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
