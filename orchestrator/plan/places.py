"""Places of errors: what planning refuses is told with the file and line that says it."""

__all__ = ["placed"]

from collections.abc import Iterator
from contextlib import contextmanager

from studies import Study
from workers.errors import ModelError, StudyError


@contextmanager
def placed(study: Study) -> Iterator[None]:
    """Within it, what is refused of `study` says in which file and line it stands, where that is known.

    Every error of planning begins with what it is about, as the study writes it (``BLOCK: layer …``,
    ``fits.NAME: …``), so that one place finds the lines of all.
    """
    try:
        yield
    except (StudyError, ModelError) as error:
        first, *others = str(error).split("\n")
        lines = [_with_line(study, first, always=True)]
        lines += [_with_line(study, line, always=False) for line in others]
        error.args = ("\n".join(lines),)
        raise


def _with_line(study: Study, said: str, *, always: bool) -> str:
    """A line of an error after the place in the file that it is about, if any; `always` at least the file."""
    if isinstance(study.pairs, str) and said.startswith(f"{study.pairs}:"):
        return said
    place = study.place_of(said)
    return said if place is None or not (always or study.is_about(said)) else f"{place}: {said}"
