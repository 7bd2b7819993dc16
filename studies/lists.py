"""Lists of a unit and of its origin, zipped and in order, so that one change has one spelling."""

__all__ = ["in_order", "once", "stretch", "zip_heads", "zip_positions"]

from dataclasses import replace

from workers.errors import StudyError
from workers.vocabulary import Place, Position, is_pooled


def stretch(origins: list[Place], places: list[Place]) -> list[Place]:
    """One origin for each place: as many are zipped, one alone serves all."""
    if len(origins) == 1:
        origins = origins * len(places)
    if len(origins) != len(places):
        raise StudyError(
            f"from names {len(origins)} places for {len(places)}; lists are zipped, so name as many"
        )
    return origins


def in_order(place: Place) -> Place:
    """The place with its heads in one spelling."""
    if place.heads is None or len(place.heads) < 2:
        return place
    return replace(place, heads=tuple(sorted(set(place.heads))))


def zip_heads(place: Place, origin: Place) -> tuple[Place, Place]:
    """Both in the order of the place's heads, so that one swap has one spelling."""
    given, taken = place.heads, origin.heads
    if given is None and taken is None:
        return place, origin
    if given is None or taken is None or len(given) != len(taken):
        counts = [0 if heads is None else len(heads) for heads in (taken, given)]
        raise StudyError(f"from names {counts[0]} heads for {counts[1]}; lists are zipped, so name as many")
    if len(set(given)) < len(given):
        raise StudyError(f"the heads {list(given)} name one twice; name each once")
    pairs = sorted(zip(given, taken, strict=True))
    return (
        replace(place, heads=tuple(head for head, _ in pairs)),
        replace(origin, heads=tuple(head for _, head in pairs)),
    )


def zip_positions(position: Position, origin: Position) -> tuple[Position, Position]:
    """Both in the order of the base's positions, so that one swap has one spelling."""
    symbolic = any(isinstance(item, str) for item in (*position, *origin))
    if len(position) != len(origin) and not (symbolic or is_pooled(origin)):
        raise StudyError(
            f"{len(position)} positions take values from {len(origin)}; lists are zipped, so name as many"
        )
    if symbolic or len(position) < 2:
        return position, origin
    pairs = sorted(zip(position, origin, strict=True))
    once(position)
    return tuple(at for at, _ in pairs), tuple(at for _, at in pairs)


def once(position: Position) -> Position:
    """Token indices in order.

    Raises:
        StudyError: one is there twice.
    """
    if len(set(position)) < len(position):
        raise StudyError(f"the positions {list(position)} name one token twice; name each once")
    return position if any(isinstance(item, str) for item in position) else tuple(sorted(position))
