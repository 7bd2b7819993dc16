"""Kill real runs at random, again and again, and count what that cost: nothing.

    python -m tests.torture --kills 20 [--seed N] [--jobs 20000] [--executor ray|inline|both] [--model tiny]

The last line says how many rows were lost, doubled or wrong; the exit code is 0 where none was, and nothing
else was out of order. What the runs wrote is kept if something was, and its folder is named.
"""

__all__ = ["main"]

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.torture.blows import draw_blows
from tests.torture.processes import Role, end_all, wait_gone
from tests.torture.rounds import Round, Tally, say
from tests.torture.world import Executor, World, make_world

AGENTS_GONE_S = 75.0
"""Ray's agents notice after 62 s that they are alone."""


def main(arguments: Sequence[str]) -> int:
    """Torture as told; 0 where nothing was lost, doubled, wrong or out of order."""
    options = _parser().parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="swapyard-torture-"))
    say(f"seed {options.seed}; everything is written below {folder}")
    tally = Tally(num_kills=options.kills)
    world = make_world(folder, options.model, options.jobs)
    try:
        _torture(world, options, tally)
        spared: tuple[Role, ...] = () if options.wait else ("agent",)
        if left := wait_gone(world.sessions, timeout_s=AGENTS_GONE_S, but=spared):
            tally.complain(f"these are still there {AGENTS_GONE_S:.0f} s after the end: {left}")
    finally:
        end_all(world.sessions)
    for problem in tally.problems:
        say(f"PROBLEM: {problem}")
    if tally.restarts:
        say(f"{tally.restarts} runs whose Ray was hit ended with a message and were started again")
    say(f"blows: {dict(tally.blows)}; commits: {dict(tally.commits)}")
    is_right = not (tally.lost or tally.doubled or tally.wrong or tally.problems)
    if is_right:
        shutil.rmtree(folder)
    else:
        say(f"what the runs wrote is kept in {folder}; to do the same again: --seed {options.seed}")
    print(tally)
    return 0 if is_right else 1


def _torture(world: World, options: argparse.Namespace, tally: Tally) -> None:
    """Round after round until all blows are dealt, one executor after the other."""
    executors: list[Executor] = ["ray", "inline"] if options.executor == "both" else [options.executor]
    expected = world.calm(executors[0])
    say(f"the undisturbed run has {expected.num_rows:,} rows")
    number = 0
    for place, executor in enumerate(executors):
        share = (options.kills + place) // len(executors)
        blows = draw_blows(options.seed + place, share, executor)
        while blows:
            number += 1
            Round(world, number, executor, expected, blows, tally).play()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="how many SIGKILLs")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="what all times are drawn from")
    parser.add_argument("--jobs", type=int, default=20_000, help="about how many jobs the study has")
    parser.add_argument("--executor", choices=["ray", "inline", "both"], default="ray")
    parser.add_argument("--model", choices=["tiny", "smollm2"], default="tiny")
    parser.add_argument(
        "--wait", action=argparse.BooleanOptionalAction, default=True, help="see Ray's agents go in the end"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
