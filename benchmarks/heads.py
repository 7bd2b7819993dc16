"""How fast a study of all heads is: ``python -m benchmarks.heads``.

Activation patching of every head of the GPT-2 small shape (random weights, 12 × 12 heads), one after the
other, at the last of 15 tokens, over 5,000 pairs, read by the logits of both labels: 720,000 interchanges. It
is run by `swapyard run`, whole: planning, clean runs, parts and commits included.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import arguments, table
from benchmarks.setting import RANDOM, model_folder, random_pairs
from benchmarks.studies import Ran, run_study, write_study

NUM_TOKENS = 15
NUM_PAIRS = 5000


def main() -> None:
    """Print the seconds and the jobs of a second."""
    parser = arguments("How fast a study of all heads is.", rounds=1)
    parser.add_argument("--pairs", type=int, help=f"how many [default: {NUM_PAIRS}, or 8 with --quick]")
    options = parser.parse_args()
    model = "gpt2-tiny" if options.quick else "gpt2-small"
    num_pairs = options.pairs or (8 if options.quick else NUM_PAIRS)
    with tempfile.TemporaryDirectory(prefix="swapyard-bench-") as scratch:
        done = run_heads(Path(scratch), model, num_pairs, options.device)
    print(shown([(model, num_pairs, done)]))
    sys.stdout.flush()


def run_heads(scratch: Path, model: str, num_pairs: int, device: str) -> Ran:
    """The study, run once."""
    shape: dict[str, Any] = RANDOM[model]
    pairs = random_pairs(num_pairs, NUM_TOKENS, shape["vocab_size"], seed=1)
    spec = {"ref": str(model_folder(model, scratch)), "device": device}
    swept = {"site": "attention_value_output", "layers": "all", "heads": "all", "position": -1}
    path = write_study(scratch, "heads", spec, pairs, swept, metrics=["logit_diff"])
    executor = ("--executor", "inline") if device != "cpu" else ()
    done = run_study(path, scratch / "runs", *executor)
    assert done.num_jobs == num_pairs * shape["n_layer"] * shape["n_head"], done
    return done


def shown(found: Sequence[tuple[str, int, Ran]]) -> str:
    """The table."""
    rows = [
        [
            f"{model}, all heads at the last of {NUM_TOKENS} tokens, {num_pairs:,} pairs",
            f"{done.num_jobs:,}",
            f"{done.work_s:.1f}",
            f"{done.wall_s:.1f}",
            f"{done.num_jobs / done.work_s:,.0f}",
        ]
        for model, num_pairs, done in found
    ]
    return table(("", "jobs", "s, first batch to last commit", "s, whole command", "jobs/s"), rows)


if __name__ == "__main__":
    main()
