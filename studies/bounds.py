"""Bounds of what a study may ask for: one home. What lies beyond is counted, not made, and then refused.

Each is far above what anybody runs, and low enough that planning up to it fits on a machine.
`docs/study-files.md` lists them; messages name the one that was met.
"""

__all__ = [
    "MOST_AXIS_VALUES",
    "MOST_CELLS",
    "MOST_COUNTED",
    "MOST_DEPTH",
    "MOST_DIGITS",
    "MOST_NUMBERS",
    "MOST_PAIRS",
    "MOST_PROMPT_CHARACTERS",
    "MOST_SEED",
    "MOST_SOURCES",
    "MOST_TEXT_BYTES",
    "MOST_TRAININGS",
    "MOST_VALUES",
    "MOST_WRITTEN",
    "check_candidates",
    "check_prompts",
    "product_text",
]

import math
from collections.abc import Mapping, Sequence

from workers.errors import StudyError

MOST_TEXT_BYTES = 64_000_000
"""Bytes of a study file."""
MOST_VALUES = 250_000
"""Values of a study file; what aliases repeat is counted each time, for they say very much in little text."""
MOST_DEPTH = 32
"""Depth of mappings and lists in one another."""
MOST_DIGITS = 30
"""Digits of a whole number."""
MOST_WRITTEN = 1_000
"""Characters of a sum, a range, a span or a rectangle."""
MOST_AXIS_VALUES = 100_000
"""Values of one axis."""
MOST_CELLS = 1_000_000
"""Cells of a study, for one model and one class of pairs."""
MOST_TRAININGS = 10_000
"""Trainings of one name, one for each combination of its axes; and fits of one name at one place."""
MOST_PAIRS = 10_000_000
"""Pairs that a task makes: ``num_pairs``, ``num_train``, ``num_test``."""
MOST_COUNTED = 1_000_000_000
"""Whatever else is counted: ranks, steps, epochs, the size of a batch."""
MOST_SOURCES = 100
"""Sources of a pair that is made."""
MOST_NUMBERS = 1_000_000_000
"""Numbers in the vectors of all pairs that are drawn."""
MOST_PROMPT_CHARACTERS = 1_000_000
"""Characters of one prompt; in tokens a fifth of that or so, which no model takes."""
MOST_SEED = 2**63 - 1
"""Largest seed."""


def product_text(sizes: Mapping[str, int]) -> str:
    """A product of axes as a message shows it: ``a 10 × b 20 = 200``."""
    factors = " × ".join(f"{name} {size:,}" for name, size in sizes.items())
    if len(sizes) == 1:
        return factors
    return f"{factors} = {math.prod(sizes.values()):,}"


def check_candidates(name: str, num_pairs: int | None, options: Mapping[str, object]) -> None:
    """Refuse a task of which far too many or far too wide pairs are asked, before one is made.

    Raises:
        StudyError: naming the option, and the bound.
    """
    for key, asked in (("num_pairs", num_pairs), *((k, options.get(k)) for k in ("num_train", "num_test"))):
        if isinstance(asked, int | float) and asked > MOST_PAIRS:
            raise StudyError(f"task {name}: {key} {asked:,}; at most {MOST_PAIRS:,} pairs are made")
    sources = options.get("num_sources", 1)
    if isinstance(sources, int | float) and sources > MOST_SOURCES:
        raise StudyError(f"task {name}: num_sources {sources:,}; a pair has at most {MOST_SOURCES} sources")
    shape = options.get("shape")
    width = [shape] if isinstance(shape, int) else shape if isinstance(shape, list | tuple) else []
    numbers = [one for one in width if isinstance(one, int) and not isinstance(one, bool)]
    if len(numbers) != len(width) or not width:
        return
    sizes = {"pairs": num_pairs or 1, "runs": 1 + int(sources if isinstance(sources, int) else 1)}
    sizes |= {f"shape[{index}]": number for index, number in enumerate(numbers)}
    if math.prod(sizes.values()) > MOST_NUMBERS:
        raise StudyError(
            f"task {name}: shape {list(width)}: {product_text(sizes)} numbers; at most"
            f" {MOST_NUMBERS:,} are made"
        )


def check_prompts(row: Mapping[str, object]) -> Sequence[tuple[str, str]]:
    """The texts of a pair that no model takes: the column, and what is wrong."""
    return [
        (column, f"a text of {len(value):,} characters; at most {MOST_PROMPT_CHARACTERS:,} are allowed")
        for column, value in row.items()
        if isinstance(value, str | list | tuple) and len(value) > MOST_PROMPT_CHARACTERS
    ]
