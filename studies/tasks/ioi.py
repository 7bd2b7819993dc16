"""Indirect object identification: "When Mary and John went to the store, John gave a ring to" → " Mary".

After Wang et al. 2022, "Interpretability in the Wild" (arXiv 2211.00593): two names, one of which comes
again; the answer is the other one. The templates' wording is our own; their two orders are those of the
paper, ABBA (the indirect object first) and BABA (the subject first).
"""

__all__ = ["IOI", "NAMES", "PLACES", "TEMPLATES"]

import random
from collections.abc import Iterator, Mapping
from itertools import count

from workers.errors import StudyError, nearest

TEMPLATES = (
    "When {first} and {second} went to the {place}, {again} gave a {object} to",
    "After {first} and {second} came home from the {place}, {again} handed a {object} to",
    "While {first} and {second} were at the {place}, {again} showed the {object} to",
    "Today {first} and {second} met near the {place}, and {again} brought a {object} to",
    "Once {first} and {second} had found the {place}, {again} passed the {object} to",
    "Since {first} and {second} worked in the {place}, {again} sold a {object} to",
    "Then {first} and {second} drove to the {place}, where {again} offered a {object} to",
    "Before {first} and {second} left the {place}, {again} sent the {object} to",
)
"""``first`` and ``second`` are the two names in either order, ``again`` is the subject a second time."""

NAMES = (
    *("Adam", "Alex", "Alice", "Amy", "Andrew", "Anna", "Anthony", "Ben", "Brian", "Charles", "Chris"),
    *("Christian", "Daniel", "David", "Edward", "Emily", "Emma", "Eric", "George", "Henry", "Jack"),
    *("James", "Jane", "Jason", "John", "Joseph", "Kate", "Kevin", "Laura", "Maria", "Mark", "Martin"),
    *("Mary", "Matthew", "Michael", "Paul", "Peter", "Rachel", "Richard", "Robert", "Rose", "Ruth"),
    *("Ryan", "Sarah", "Simon", "Steven", "Susan", "Thomas", "Tom", "William"),
)
"""Names that common tokenisers make one token of, with the blank before it."""

PLACES = (
    "store",
    "garden",
    "school",
    "station",
    "office",
    "hospital",
    "restaurant",
    "house",
    "park",
    "market",
)
OBJECTS = ("ring", "book", "letter", "drink", "ball", "picture", "box", "flower", "key", "bag")

_SOURCES = ("ABC", "swapped")
_Marks = dict[str, tuple[int, int]]


class IOI:
    """Prompts with an answer that needs both names, and sources that take the names' roles away.

    Option ``source``: ``ABC`` (the default) has three other names in the three places, so that no name comes
    twice and there is no answer (p_ABC in the paper); ``swapped`` has the two names change
    roles, so that its answer is the base's subject.

    The answer (``base_label``) is the indirect object, ``label`` the subject: what a model would say that
    takes the wrong one. The logit difference of the paper (IO - S) is ``-logit_diff``. Every second pair is
    of the split ``test``, the others are of ``train``; no base comes twice.
    """

    name = "ioi"
    filter = "none"
    aligned = True
    is_endless = True
    options = ("source",)

    def candidates(self, *, seed: int, options: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
        """See `PairTask.candidates`: template, order, names, place and object drawn for each pair.

        Raises:
            StudyError: an unknown kind of source.
        """
        kind = options.get("source", "ABC")
        if kind not in _SOURCES:
            raise StudyError(
                f"task ioi: source {kind!r} is not known; give {' or '.join(_SOURCES)}"
                f"{nearest(str(kind), _SOURCES)}"
            )
        draw = random.Random(seed)
        seen: set[object] = set()
        for number in count():
            row = _row(draw, kind)
            while row["base"] in seen:
                row = _row(draw, kind)
            seen.add(row["base"])
            yield {**row, "split": "test" if number % 2 else "train"}


def _row(draw: random.Random, kind: object) -> dict[str, object]:
    number = draw.randrange(len(TEMPLATES))
    order = draw.choice(("ABBA", "BABA"))
    words = {"place": draw.choice(PLACES), "object": draw.choice(OBJECTS)}
    io, subject, *others = draw.sample(NAMES, 5)
    names = others if kind == "ABC" else [subject, io, io]
    base, marks = _filled(TEMPLATES[number], order, (io, subject, subject), words)
    source, source_marks = _filled(TEMPLATES[number], order, (names[0], names[1], names[2]), words)
    return {
        "base": base,
        "source": source,
        "base_label": f" {io}",
        "label": f" {subject}",
        **({"source_label": f" {subject}"} if kind == "swapped" else {}),
        **{f"span.{name}": list(span) for name, span in marks.items()},
        **{f"source.span.{name}": list(span) for name, span in source_marks.items()},
        "template": f"{order} {number}",
        **words,
    }


def _filled(
    template: str, order: str, names: tuple[str, str, str], words: Mapping[str, str]
) -> tuple[str, _Marks]:
    """The prompt with the names (IO, S, S again), and by characters where they and its end lie."""
    io, subject, again = names
    by_slot = {"first": ("IO", io), "second": ("S", subject), "again": ("S2", again)}
    if order == "BABA":
        by_slot |= {"first": ("S", subject), "second": ("IO", io)}
    text, marks = "", dict[str, tuple[int, int]]()
    for piece in template.replace("{", "}").split("}"):
        mark, word = by_slot.get(piece, ("", words.get(piece, piece)))
        if mark:
            marks[mark] = (len(text), len(text) + len(word))
        text += word
    marks["end"] = (text.rindex(" ") + 1, len(text))
    return text, {name: marks[name] for name in ("IO", "S", "S2", "end")}
