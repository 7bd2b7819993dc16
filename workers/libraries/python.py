"""Names of Python itself that may move: how a process is ended early, and what its random numbers choose."""

__all__ = ["PLACES", "run_exit_functions"]

import atexit
import random

from workers.libraries import LibraryPlace


def run_exit_functions() -> bool:
    """Run what was registered for the end of the process; False where Python has no way to do so."""
    run = getattr(atexit, "_run_exitfuncs", None)
    if not callable(run):
        return False
    run()
    return True


_SHUFFLED, _SAMPLED, _CHOSEN = [7, 8, 1, 5, 3, 4, 2, 0, 9, 6], [6, 9, 0, 2], [6, 6, 0]
"""Of the numbers 0 to 9 with the seed 0, as Pythons 3.11 to 3.13 choose them."""


def _probe_exit() -> str | None:
    is_there = callable(getattr(atexit, "_run_exitfuncs", None))
    return None if is_there else "commands end as any program does, and extensions may complain at the end"


def _probe_choices() -> str | None:
    shuffled = list(range(10))
    random.Random(0).shuffle(shuffled)
    draw = random.Random(0)
    found = (shuffled, random.Random(0).sample(range(10), 4), [draw.choice(range(10)) for _ in range(3)])
    wanted = (_SHUFFLED, _SAMPLED, _CHOSEN)
    same = [one == other for one, other in zip(found, wanted, strict=True)]
    lost = [name for name, is_same in zip(("shuffle", "sample", "choice"), same, strict=True) if not is_same]
    return f"a seed gives other pairs of tasks: {', '.join(lost)}" if lost else None


PLACES = (
    LibraryPlace(
        library="python",
        name="atexit._run_exitfuncs",
        used_for="ending a command before the interpreter clears up, of which extensions complain",
        seen_with="3.11 to 3.13",
        without="the command ends as any program does: a page of complaints may follow its last line",
        marks=("_run_exitfuncs",),
        probe=_probe_exit,
    ),
    LibraryPlace(
        library="python",
        name="what random.Random's shuffle, sample and choice choose with a seed",
        used_for="pairs of tasks, samples of a screening: those of one seed are the same everywhere",
        seen_with="3.11 to 3.13",
        without="a study planned anew has other pairs, each with its own identity; what is done stays",
        marks=(),
        probe=_probe_choices,
    ),
)
