"""Tasks make pairs. A task is a small object; `TASKS` holds those that are bundled."""

__all__ = ["TASKS", "PairRow", "PairTask", "find_task"]

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from studies.tasks.capitals import Capitals
from studies.tasks.causal import BUNDLED_MODELS, CAUSAL, Causal
from studies.tasks.ioi import IOI
from studies.tasks.random_embeds import RandomEmbeds
from workers.code.places import NO_CODE, Code
from workers.errors import NotYetError, nearest

PairRow = Mapping[str, object]
"""One pair as the columns of ``docs/study-files.md``: ``base``, ``source``, ``label``, ``span.NAME`` …"""


class PairTask(Protocol):
    """Maker of candidate pairs; the filter then keeps those that the model answers right."""

    @property
    def name(self) -> str:
        """Name in a study."""

    @property
    def filter(self) -> str:
        """The filter where the study names none: ``both_correct`` or ``none``."""

    @property
    def aligned(self) -> bool:
        """Whether pairs are compared token by token: those of unequal lengths then fall out."""

    @property
    def is_endless(self) -> bool:
        """Whether there is no last candidate: then only as many are made as are wanted."""

    @property
    def options(self) -> Sequence[str]:
        """The names of the options that `candidates` takes."""

    def candidates(self, *, seed: int, options: Mapping[str, object]) -> Iterator[PairRow]:
        """Every pair that the task can make, each once, in an order that depends on `seed` alone.

        The first ``num_pairs`` that pass the filter are the study's, so a larger number only adds pairs.

        Raises:
            StudyError: an option has an impossible value.
        """


_ALL: Sequence[PairTask] = (
    Capitals(),
    IOI(),
    RandomEmbeds(),
    *(Causal(name) for name in (CAUSAL, *BUNDLED_MODELS)),
)

TASKS: Mapping[str, PairTask] = MappingProxyType({task.name: task for task in _ALL})
"""The bundled tasks by name."""


def find_task(name: str, code: Code = NO_CODE) -> PairTask:
    """The bundled task of this name; one that is made of a study's own model finds it in its `code`.

    Raises:
        NotYetError: there is none; tasks of one's own are not there yet either.
    """
    if name == CAUSAL:
        return Causal(name, code)
    if name in TASKS:
        return TASKS[name]
    raise NotYetError(
        f"the task {name!r} is not there in this version; there are: {', '.join(TASKS)}{nearest(name, TASKS)}"
    )
