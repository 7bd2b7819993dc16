"""Names in a study: of files and tables, of the views' own columns, of the columns of pairs.

A column of pairs whose name is nearly one of ours would be kept as a user's own, and its values be lost.
So it is refused, unless the column that it looks like is there as well. All other names are users' own.
"""

__all__ = [
    "INPUT",
    "LABEL",
    "NAME_RULE",
    "PAIR_COLUMNS",
    "RESERVED",
    "RESULT_COLUMNS",
    "SPAN",
    "TEXT",
    "is_name",
    "is_plain_file",
    "normal",
    "problems_of_names",
    "unlike",
]

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache

from workers.metrics import DERIVED, OBSERVED, RUN_VALUES

PAIR_COLUMNS = ("base", "source", "base_label", "source_label", "label")
"""The columns of a pair that ``results`` always has, NULL where a study does not give them."""

RESULT_COLUMNS = (
    *("study", "cell_id", "pair_id", "job_id", "model", "dtype", "revision", "block"),
    *("base_position", "base_positions", "source_positions", "base_tokens"),
    *(metric.name for metric in OBSERVED),
    *(f"{run}_run_{value}" for run in ("base", "source") for value in RUN_VALUES),
    *(metric.name for metric in DERIVED),
    *("estimate", "tier"),
)
"""The columns of ``results`` besides axes and those of a pair."""

_OTHERS = (
    *("role", "token", "logit", "logprob", "rank"),
    *("collected_unit", "collected_token", "collected", "_collected", "_one", "_pair_number"),
    *("units", "num_jobs", "num_done"),
    *("selected", "weight", "estimated_effect", "estimated_change", "num_estimates"),
    *("exact_effect", "exact_change", "num_exact"),
    *("attempt", "error_type", "error_message"),
    *("_point", "_lane", "_block"),
)
"""Columns beside axes in ``scores``, ``activations``, ``cells``, ``screening``, ``failures``, and a plan."""

RESERVED = frozenset((*PAIR_COLUMNS, *RESULT_COLUMNS, *_OTHERS))
"""Names that are taken in every spelling, for SQL does not tell ``IIA`` from ``iia``."""


NAME_RULE = "a folder's name: up to 100 letters, digits, '.', '_', '-', first a letter or digit"
"""The rule, in words."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")


def is_name(value: object) -> bool:
    """Whether a study, and what it names itself, may have this name."""
    return isinstance(value, str) and _SAFE_NAME.fullmatch(value) is not None


def is_plain_file(name: str) -> bool:
    """Whether a file of this name lies in the folder that it is put into: studies of before there was a rule
    may have names with blanks."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"} and len(name.encode()) < 200


_SOURCE = r"source(?:_(?:[2-9]|[1-9]\d+))?"
INPUT = re.compile(rf"(?P<run>base|{_SOURCE})(?:_(?P<form>ids|embeds))?")
LABEL = re.compile(r"label(?:\.[\w+-]+)?|base_label|source_label")
SPAN = re.compile(rf"(?:(?P<run>{_SOURCE})\.)?span\.[\w-]+")
TEXT = ("task", "split", "base_class", "source_class")

_FIXED = (
    *(f"{run}{form}" for run in ("base", "source") for form in ("", "_ids", "_embeds")),
    *("label", "base_label", "source_label", *TEXT),
)
_NUMBERED = re.compile(r"source(\d{1,9})(ids|embeds)?")
_HEADS = {"span": ("span", "spans", "sapn", "spna", "psan"), "label": ("label", "labels", "lable", "lables")}
"""Words before the first dot of a family of columns, with their misspellings."""
_LEAST = 5
"""Letters of a name of which one may be wrong: the words that are one letter from ``base`` are too many."""


def problems_of_names(names: Sequence[object]) -> tuple[tuple[str, str], ...]:
    """Problems with the names of one header, or of one pair's columns: the name, and the problem."""
    return _problems(tuple(names))


@lru_cache(maxsize=256)
def _problems(names: tuple[object, ...]) -> tuple[tuple[str, str], ...]:
    return tuple(_found(names))


def _found(names: tuple[object, ...]) -> Iterator[tuple[str, str]]:
    seen: dict[str, tuple[int, str]] = {}
    for at, name in enumerate(names, start=1):
        if not isinstance(name, str):
            yield "", f"the column name {name!r} is no text; give the column a name of letters"
            continue
        plain = normal(name)
        if not plain:
            yield "", _unnamed(name, at)
        elif plain in seen:
            yield name, _twins(name, at, seen[plain])
        seen.setdefault(plain, (at, name))
    present = {name for name in names if isinstance(name, str)}
    for name in dict.fromkeys(name for name in names if isinstance(name, str) and normal(name)):
        if (text := _nearly(name, present)) is not None:
            yield name, text


def unlike(names: Mapping[str, str], new: str) -> str | None:
    """The problem of a column that another pair calls otherwise: `names` has normal names → as written."""
    first = names.get(normal(new), new)
    return None if first == new else f"{new!a} is {first!a} in another pair; {_SAME}"


@lru_cache(maxsize=4096)
def normal(name: str) -> str:
    """A name without case, blanks around it, invisible characters and forms of Unicode."""
    text = unicodedata.normalize("NFKC", name).casefold()
    shown = "".join(
        " " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C"
    )
    return " ".join(unicodedata.normalize("NFKC", shown).split())


_SAME = "case, blanks and forms of Unicode do not tell columns apart, in SQL neither; rename one"


def _unnamed(name: str, at: int) -> str:
    given = f" ({name!r})" if name else ""
    return (
        f"column {at} has no name{given}; give it one, or leave it out (of pandas' to_csv and to_parquet by"
        " index=False)"
    )


def _twins(name: str, at: int, other: tuple[int, str]) -> str:
    before, first = other
    if name == first:
        return f"the name {name!r} is there twice, in columns {before} and {at}; rename one"
    return f"columns {before} and {at} are called {first!a} and {name!a}; {_SAME}"


def _nearly(name: str, present: Collection[str]) -> str | None:
    """Why a name that is nearly ours is refused; None of one that is ours, or a user's own."""
    if INPUT.fullmatch(name) or LABEL.fullmatch(name) or SPAN.fullmatch(name) or name in TEXT:
        return None
    if (family := _of_family(name)) is not None:
        return family
    bare = re.sub(r"[\W_]", "", normal(name))
    wanted = _numbered(bare)
    # A first source with a number is no second spelling of the one without: it would be lost beside it.
    if wanted is None or wanted.removesuffix("_ids").removesuffix("_embeds") != "source":
        wanted = wanted or next((ours for ours in _FIXED if _is_close(bare, ours.replace("_", ""))), None)
        if wanted is None or _is_there(wanted, present):
            return None
    return (
        f"the column {_shown(name)} is none of ours and would be a column of your own; did you mean"
        f" {wanted!r}? Rename it so, or to what is less like it"
    )


def _of_family(name: str) -> str | None:
    """The same of ``span.NAME``, ``source.span.NAME`` and ``label.NAME``."""
    parts = name.split(".")
    heads = [normal(part) for part in parts]
    for family, spellings in _HEADS.items():
        at = next((at for at, head in enumerate(heads[:-1][:2]) if head in spellings), None)
        if at is None or (at == 1 and (family == "label" or not heads[0].startswith(("base", "source")))):
            continue
        rest = "_".join(re.findall(r"[\w+-]+" if family == "label" else r"[\w-]+", ".".join(parts[at + 1 :])))
        run = "" if at == 0 or heads[0].startswith("base") else f"{_numbered(heads[0]) or 'source'}."
        wanted = f"{run}{family}.{rest or 'NAME'}"
        letters = "letters, digits, _, - and +" if family == "label" else "letters, digits, _ and -"
        return (
            f"the column {_shown(name)} is no {family}; allowed: {run}{family}.NAME, a NAME of {letters};"
            f" did you mean {wanted!r}?"
        )
    return None


def _numbered(bare: str) -> str | None:
    """``source_2`` of what is written ``source2``, ``source 2`` or ``source_02``; the first has no number."""
    match = _NUMBERED.fullmatch(bare.replace("_", ""))
    if match is None:
        return None
    number = int(match[1])
    return f"source{f'_{number}' if number > 1 else ''}{f'_{match[2]}' if match[2] else ''}"


def _is_there(wanted: str, present: Collection[str]) -> bool:
    """Whether the column is there, or the same run in another form."""
    run = INPUT.fullmatch(wanted)
    if run is None:
        return wanted in present
    return any((other := INPUT.fullmatch(name)) and other["run"] == run["run"] for name in present)


def _is_close(given: str, ours: str) -> bool:
    """Whether `given` is `ours` with an s, or a letter wrong, missing or too much, or two changed about."""
    if given == ours or given == f"{ours}s":
        return True
    if len(ours) < _LEAST or abs(len(given) - len(ours)) > 2:
        return False
    if "label" in ours and sorted(given) == sorted(ours):
        return True
    return any(_is_one_off(form, ours) for form in {given, given.removesuffix("s")})


def _is_one_off(given: str, ours: str) -> bool:
    """Whether the two differ by one letter, or by two neighbours that changed places."""
    if given == ours:
        return True
    start = next((at for at, (a, b) in enumerate(zip(given, ours, strict=False)) if a != b), None)
    if start is None:
        return abs(len(given) - len(ours)) == 1
    a, b = given[start:], ours[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])


def _shown(name: str) -> str:
    """A name with what nobody sees, or takes for another letter, written out."""
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:77]}..."
