"""Random vectors: for models whose inputs are numbers, and for checks in which only the machinery counts."""

__all__ = ["RandomEmbeds"]

import random
from collections.abc import Iterator, Mapping
from typing import TypeGuard

from workers.errors import StudyError
from workers.vocabulary import Vectors

_STEPS = 24
"""Binary digits of a number: float32 tells 2 to this power parts of [0, 1) apart everywhere in it."""


class RandomEmbeds:
    """Pairs of vectors drawn uniformly from [0, 1), without labels: nothing is predicted of them.

    Options: ``shape``, ``[T, E]`` for T tokens or time steps of E numbers each; ``num_sources``, how many
    sources a pair has (1 where it is not said).
    """

    name = "random_embeds"
    filter = "none"
    aligned = False
    is_endless = True
    options = ("shape", "num_sources")

    def candidates(self, *, seed: int, options: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
        """See `PairTask.candidates`: pair after pair from one stream, the same on every machine.

        Raises:
            StudyError: no shape, or no number of sources.
        """
        num_tokens, width = _shape(options.get("shape"))
        num_sources = options.get("num_sources", 1)
        if not _is_count(num_sources, least=0):
            raise StudyError(f"task random_embeds: num_sources {num_sources!r}; give a whole number from 0")
        runs = ["base", *(f"source_{n}" if n > 1 else "source" for n in range(1, num_sources + 1))]
        draw = random.Random(seed)
        while True:
            yield {f"{run}_embeds": _vectors(draw, num_tokens, width) for run in runs}


def _vectors(draw: random.Random, num_tokens: int, width: int) -> Vectors:
    # Bits and not floats: what is drawn must not depend on how a machine rounds.
    return Vectors.of(
        [[draw.getrandbits(_STEPS) / 2**_STEPS for _ in range(width)] for _ in range(num_tokens)]
    )


def _shape(given: object) -> tuple[int, int]:
    if isinstance(given, list | tuple) and len(given) == 2 and all(_is_count(n, least=1) for n in given):
        return given[0], given[1]
    raise StudyError(
        f"task random_embeds: shape {given!r}; give [T, E], for T tokens or time steps of E numbers each"
    )


def _is_count(value: object, *, least: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
