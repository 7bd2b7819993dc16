"""How long 10 million jobs take to plan, from prepared inputs to files: ``python -m benchmarks.plan``.

Target: under 2 s and 300 MB. Tokenising the pairs and running them unintervened come before, and are not
counted. Every round is a fresh process, so that its peak of memory is that of planning alone.
"""

import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.plan.build import LaneInputs, build_plan
from orchestrator.plan.prepare import Input
from orchestrator.plan.previous_plan import PreviousPlan
from orchestrator.plan.tables import Lane, Plan, encode_plan
from studies import Study, load_study
from studies.language.expand import PairClass
from studies.language.identity import lane_identity
from workers.model.facts import ModelFacts
from workers.vocabulary import ModelSpec

NUM_ROUNDS = 5
NUM_TOKENS = 24
VOCABULARY = 49_152


@dataclass(frozen=True, slots=True)
class Shape:
    """A study: how many pairs, and its sweep."""

    sweep: str
    num_pairs: int


SHAPES = {
    "2,160 cells × 4,630 pairs": Shape(
        "{sites: [mlp_output, attention_input, block_output], layers: all, positions: all}", 4_630
    ),
    "100,800 cells × 100 pairs": Shape(
        "{sites: [mlp_output, attention_input, block_output, block_input], layers: all, positions: all,"
        f" subspaces: {json.dumps([f'{lo}:{lo + 16}' for lo in range(0, 560, 16)])}}}",
        100,
    ),
}

FACTS = ModelFacts(
    ref="smollm2-135m",
    revision="0" * 64,
    dtype="float32",
    folder=Path("models"),
    model_type="llama",
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    width=576,
    vocab_size=VOCABULARY,
    num_parameters=134_515_008,
)


def main() -> None:
    """Print a table of all shapes, the median and the worst of several rounds."""
    print(f"{'shape':28}{'jobs':>12}{'rows':>10}{'files MB':>10}{'wall s':>16}{'CPU s':>16}{'peak MB':>12}")
    for name in SHAPES:
        rounds = [_in_child(name) for _ in range(NUM_ROUNDS)]
        first = rounds[0]
        times = "".join(f"{_spread([one[key] for one in rounds]):>16}" for key in ("wall_s", "cpu_s"))
        peak = max(one["peak_mb"] for one in rounds)
        print(
            f"{name:28}{first['num_jobs']:>12,}{first['num_rows']:>10,}{first['files_mb']:>10.1f}"
            f"{times}{peak:>12.0f}",
            flush=True,
        )
    print(f"seconds: median and worst of {NUM_ROUNDS} rounds; memory: worst, libraries included")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({max(values):.2f})"


def _in_child(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.plan", name]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def measure(shape: Shape) -> dict[str, float]:
    """Plan one shape in this process."""
    plan = prepared(shape)
    wall, cpu = time.perf_counter(), time.process_time()
    made = plan()
    files = encode_plan(made)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "num_jobs": made.num_jobs,
        "num_rows": sum(table.num_rows for table in made.tables.values()),
        "files_mb": sum(map(len, files.values())) / 1e6,
        "wall_s": wall,
        "cpu_s": cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def prepared(shape: Shape) -> "partial[Plan]":
    """All that a plan is made from; calling it makes the plan."""
    study = _study(shape)
    spec = ModelSpec(ref=FACTS.ref)
    identity = lane_identity(FACTS, spec)
    lane = Lane(lane=0, spec=spec, identity=identity, num_parameters=FACTS.num_parameters)
    inputs = list(_inputs(shape.num_pairs))
    kind = PairClass(lengths=(("base", NUM_TOKENS), ("source", NUM_TOKENS)))
    brought = LaneInputs(
        lane=lane, facts=FACTS, model=spec, inputs=inputs, classes={one.given: kind for one in inputs}
    )
    return partial(
        build_plan,
        study,
        [brought],
        [_row(one) for one in inputs],
        families=("logits", "kl"),
        earlier=PreviousPlan(),
        head={"lanes": [lane.to_json()]},
        base_tokens={(0, one.given): [f" {token}" for token in one.tokens["base"]] for one in inputs},
    )


def _study(shape: Shape) -> Study:
    head = "study: large\nmodel: smollm2-135m\ntask: {name: capitals, num_pairs: 1, seed: 0}\n"
    return load_study(f"{head}sweep: [{shape.sweep}]\n")


def _inputs(num_pairs: int) -> Iterator[Input]:
    draw = random.Random(0)
    prompts = [tuple(draw.randrange(VOCABULARY) for _ in range(NUM_TOKENS)) for _ in range(200)]
    for given in range(num_pairs):
        base, source = draw.sample(prompts, 2)
        yield Input(
            given=given,
            tokens={"base": base, "source": source},
            label_ids=(given % VOCABULARY,),
            base_label_ids=((given + 1) % VOCABULARY,),
        )


def _row(one: Input) -> Mapping[str, Any]:
    texts = {run: " ".join(map(str, tokens)) for run, tokens in one.tokens.items()}
    return {**texts, "base_label": f" {one.base_label_ids[0]}", "label": f" {one.label_ids[0]}"}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(SHAPES[sys.argv[1]])))
    else:
        main()
