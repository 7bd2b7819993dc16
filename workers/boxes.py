"""A rectangle of an example's tensor as text, in one spelling. No torch here."""

__all__ = ["BoxPart", "box_parts", "written_box"]

from collections.abc import Sequence

BoxPart = int | tuple[int, int | None]
"""An index in one dimension of a tensor, or a half-open range; an end that is None is the dimension's own."""


def written_box(parts: Sequence[BoxPart]) -> str:
    """A rectangle of an example's tensor, one part for each of its first dimensions, in its one spelling."""
    given = list(parts)
    while len(given) > 1 and given[-1] == (0, None):
        given.pop()
    return ", ".join(
        str(p) if isinstance(p, int) else f"{p[0]}:{'' if p[1] is None else p[1]}" for p in given
    )


def box_parts(written: str) -> tuple[BoxPart, ...]:
    """The parts of what `written_box` wrote."""
    ends = (part.partition(":") for part in written.split(", "))
    return tuple((int(lo), int(hi) if hi else None) if colon else int(lo) for lo, colon, hi in ends)
