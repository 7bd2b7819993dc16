"""Why pairs are left out, in few lines: reasons that differ in words and numbers only are one kind."""

__all__ = ["NOT_DRAWN", "NOT_READ", "LeftOut", "left_out", "of_table"]

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

NOT_DRAWN = "enough pairs without it"
NOT_READ = "its label is of another output"

_GIVEN = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d[\d,]*")
"""What differs from pair to pair: words in quotes, and numbers."""

_MOST_KINDS = 8
_MOST_PAIRS = 3
_MOST_TEXT = 400


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Pairs that are left out for one kind of reason."""

    count: int
    reason: str
    """That of the first of them."""
    pairs: tuple[int, ...]
    """The first of them, as given."""

    @property
    def text(self) -> str:
        """How many, which, and why, in a line."""
        which = ", ".join(map(str, self.pairs)) + (" …" if self.count > len(self.pairs) else "")
        pairs = "pair" if self.count == 1 else "pairs"
        why = self.reason if len(self.reason) <= _MOST_TEXT else f"{self.reason[:_MOST_TEXT]}…"
        return f"{self.count:,} × {why} ({pairs} {which})"


def left_out(reasons: Iterable[tuple[int, str | None]]) -> list[LeftOut]:
    """Kinds of reasons, the most frequent first; `reasons` are of given pairs by number, None of one kept."""
    kinds: dict[str, tuple[str, list[int]]] = {}
    for given, reason in reasons:
        if reason is not None:
            kinds.setdefault(_GIVEN.sub("…", reason), (reason, []))[1].append(given)
    found = [LeftOut(len(pairs), reason, tuple(pairs[:_MOST_PAIRS])) for reason, pairs in kinds.values()]
    found.sort(key=lambda one: -one.count)
    rest = found[_MOST_KINDS:]
    if not rest:
        return found
    others = LeftOut(sum(one.count for one in rest), f"{len(rest)} other reasons", rest[0].pairs)
    return [*found[:_MOST_KINDS], others]


def of_table(inputs: pa.Table) -> list[LeftOut]:
    """Kinds of reasons in a plan's table of inputs, but for pairs that were only not needed."""
    columns = (inputs[name].to_pylist() for name in ("given", "reason"))
    reasons = zip(*columns, strict=True)
    return left_out((given, reason) for given, reason in reasons if reason not in (NOT_DRAWN, NOT_READ))
