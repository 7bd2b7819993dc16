"""What columns that users named are called in a view, and how SQL writes a name."""

__all__ = ["literal", "names_in_results", "public_names", "quoted", "said_by_pairs"]

from collections.abc import Collection, Iterable

from studies.columns import PAIR_COLUMNS, RESERVED


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def said_by_pairs(given: Collection[str]) -> list[str]:
    """The axes of which a pair's own column says the value: task, variable, output."""
    return [name for name in ("task", "variable", "read") if name in given]


def names_in_results(given: Collection[str], axes: Collection[str]) -> dict[str, str]:
    """What ``results`` calls each column of a pair."""
    own = {*PAIR_COLUMNS, *said_by_pairs(given)}
    return public_names(given, own=own, reserved=(*RESERVED, *axes, "model"))


def public_names(given: Iterable[str], *, own: Collection[str], reserved: Collection[str]) -> dict[str, str]:
    """The name in a view of each column of a pair: its own, or ``pair.NAME`` where that is taken.

    Names in `own` stay as they are; those in `reserved` are taken in every spelling, as is each name given
    before.
    """
    taken = {name.casefold() for name in (*own, *reserved)}
    names: dict[str, str] = {}
    for name in given:
        public = name
        while name not in own and public.casefold() in taken:
            public = f"pair.{public}"
        taken.add(public.casefold())
        names[name] = public
    return names
