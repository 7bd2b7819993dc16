"""What is done to a run, and when: a plan of blows, all drawn from one seed."""

__all__ = ["Blow", "Kind", "Moment", "draw_blows"]

import random
from dataclasses import dataclass
from typing import Literal

from tests.torture.world import Executor

Kind = Literal["driver", "all", "race", "worker", "ray", "damage", "stop", "move", "copy"]
"""What a blow hits. ``race``: the driver is killed and two take its place at the same moment; ``ray``: Ray's
own raylet or gcs_server; ``damage``: all are killed, and the folder is harmed and repaired; ``stop``: the
driver sleeps while another one takes the study over; ``move``: the folder is renamed under the driver;
``copy``: it is copied beside the driver."""
Moment = Literal["start", "plan", "load", "work", "end"]

_DECKS: dict[Executor, tuple[Kind, ...]] = {
    "ray": ("driver",) * 4 + ("worker",) * 3 + ("all",) * 2 + ("ray",) * 2 + ("race",) + ("damage",) * 2,
    "inline": ("driver",) * 5 + ("all",) * 2 + ("race",) + ("damage",) * 2,
}
_MOMENTS: tuple[Moment, ...] = ("start", "plan", "load", "work", "work", "work", "end")
_NEED_WORKERS: tuple[Kind, ...] = ("worker", "ray", "stop", "damage", "move", "copy")
_OTHERS: tuple[Kind, ...] = ("stop", "move", "copy")
_KILLS_PER_OTHER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """One blow; the times are drawn beforehand, so that a seed always makes the same plan."""

    kind: Kind
    moment: Moment
    delay: float
    """How far into its moment, from 0 to 1."""
    pause_s: float
    """How long after it the same command is started again, or a sleeper woken."""
    choice: float
    """Which of several processes, from 0 to 1."""

    @property
    def is_kill(self) -> bool:
        """Whether something is killed."""
        return self.kind not in _OTHERS


def draw_blows(seed: int, num_kills: int, executor: Executor) -> list[Blow]:
    """`num_kills` kills in random order, all kinds about evenly, and another blow for every four."""
    draw = random.Random(seed)
    deck: list[Kind] = []
    while len(deck) < num_kills:
        fresh = list(_DECKS[executor])
        draw.shuffle(fresh)
        deck += fresh
    kinds = deck[:num_kills]
    for number in range(max(1, num_kills // _KILLS_PER_OTHER) if num_kills else 0):
        place = draw.randrange(len(kinds)) if number else len(kinds) // 2
        kinds.insert(place, _OTHERS[number % len(_OTHERS)])
    return [_draw(draw, kind) for kind in kinds]


def _draw(draw: random.Random, kind: Kind) -> Blow:
    moments = [m for m in _MOMENTS if kind not in _NEED_WORKERS or m in ("load", "work")]
    longest = 8.0 if kind == "stop" else 0.2
    return Blow(
        kind=kind,
        moment=draw.choice(moments),
        delay=draw.random(),
        # Half of them at once: then the workers of the driver that was killed are still there.
        pause_s=draw.choice((0.0, longest * draw.random())),
        choice=draw.random(),
    )
