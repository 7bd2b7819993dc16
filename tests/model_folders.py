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
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.fuzz.sandbox import End, in_fork
from tests.odd_folders import change

MOST_CPU_S = 10.0
MOST_MB = {"plan": 1000.0, "load": 1500.0}
_KINDS = ("llama", "gpt2", "gpt_neox", "bloom")
_REFUSED = 1

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
    num_faults = 0
    work = _planned if options.what == "plan" else _loaded
    for number in range(options.first, options.first + options.num):
        draw = random.Random(f"{options.seed}/{number}")
        case = root / "case"
        shutil.copytree(root / draw.choice(_KINDS), case / "model")
        told = [change(draw, case / "model") for _ in range(draw.choice((1, 1, 1, 2, 3)))]
        (case / "study.yaml").write_text(_STUDY)
        end = in_fork(work, case, (root,))
        lines = [line for line in end.said.splitlines() if line.strip()]
        fault = _fault(end, options.what)
        num_faults += fault is not None
        if fault is not None or options.verbose:
            print(
                f"{number} {'; '.join(told)}: {fault or end.code}: {' '.join(lines[-1:])[:300]}", flush=True
            )
        shutil.rmtree(case)
    print(f"{options.what}: {options.num} folders, {num_faults} faults", flush=True)
    return num_faults


def _fault(end: End, what: str) -> str | None:
    if "Traceback" in end.said or end.code not in (0, _REFUSED):
        return f"a traceback, or exit {end.code}"
    if end.touched:
        return end.touched[0]
    if end.cpu_s > MOST_CPU_S:
        return f"{end.cpu_s:.0f} s"
    return f"{end.peak_mb:.0f} MB" if end.peak_mb > MOST_MB[what] else None


# How it is tried


def _settle(root: Path, what: str) -> None:
    """Tiny models, folders of this run's own, and all that is slow to import."""
    child = os.fork()
    if child == 0:
        _save_models(root)
        os._exit(0)
    os.waitpid(child, 0)
    for name in ("home", "cache", "temporary"):
        (root / name).mkdir()
    own = {"HOME": str(root / "home"), "XDG_CONFIG_HOME": str(root / "home"), "HF_HUB_OFFLINE": "1"}
    os.environ |= {**own, "SWAPYARD_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    os.environ["TMPDIR"] = tempfile.tempdir = str(root / "temporary")
    import orchestrator.run.overview  # noqa: F401
    import studies  # noqa: F401

    if what == "load":
        import torch

        import workers.engine.replay.probe  # noqa: F401

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
    from workers.engine.replay.probe import probed
    from workers.errors import SwapyardError
    from workers.model.loading import load
    from workers.model.references import resolve
    from workers.model.spec import ModelSpec

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec = ModelSpec(ref="./model")
            probed(load(spec, resolve(spec), device="cpu"))
    except SwapyardError as error:
        print(f"Error: {error}")
        raise SystemExit(_REFUSED) from None


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
