"""What columns that users named are called in a view, and how SQL writes a name."""

__all__ = ["literal", "public_names", "quoted"]

from collections.abc import Collection, Iterable


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


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
