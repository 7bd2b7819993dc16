"""Every error that swapyard raises on purpose.

    SwapyardError            one clear message: what was given, what is allowed, what to do
    ├── StudyError           the study file, its pairs or its tasks say something impossible
    │   ├── NotYetError      they ask for a capability that this version does not have
    │   └── UntrustedError   they name code that nobody has said may be run
    ├── ModelError           a model cannot be found, fetched, loaded, or has no such site
    ├── StoreError           a study directory cannot be read or written
    │   ├── StorageFullError no room left; nothing is lost, the run goes on when there is room
    │   └── HeldError        another driver holds the study
    ├── RunError             workers cannot do the work
    │   ├── ClusterError     a node of the cluster does not share the study's folder or version
    │   ├── JobsFailedError  a run from Python has ended, and some of the study's jobs failed
    │   └── DivergedError    a training's loss is no number any more
    └── QueryError           the SQL, or what it asks for, cannot be answered
        └── OutOfTimeError   it took longer than it may

Anything else that escapes is a bug of ours.
"""

__all__ = [
    "ClusterError",
    "DivergedError",
    "HeldError",
    "JobsFailedError",
    "ModelError",
    "NotYetError",
    "OutOfTimeError",
    "QueryError",
    "RunError",
    "StorageFullError",
    "StoreError",
    "StudyError",
    "SwapyardError",
    "UntrustedError",
    "article",
    "counted",
    "nearest",
]

import difflib
from collections.abc import Iterable

_MOST_COMPARED = 100
"""Characters of a name that are compared with others."""


class SwapyardError(Exception):
    """The root: its text is the one message that a user reads."""

    exit_code = 1


class StudyError(SwapyardError):
    """The study file, its pairs or its tasks say something impossible."""


class NotYetError(StudyError):
    """The study asks for a capability that this version does not have."""


class UntrustedError(StudyError):
    """The study names code beside it, or in a model's folder, and nobody has said that it may be run."""


class ModelError(SwapyardError):
    """A model cannot be found, fetched or loaded, or has no such site."""


class StoreError(SwapyardError):
    """A study directory cannot be read or written."""


class StorageFullError(StoreError):
    """No room is left on the storage."""

    exit_code = 4


class HeldError(StoreError):
    """Another driver holds the study."""

    exit_code = 5


class RunError(SwapyardError):
    """The workers cannot do the work."""


class ClusterError(RunError):
    """A node of the cluster does not share the study's folder or version."""

    exit_code = 2


class JobsFailedError(RunError):
    """Jobs of a study failed; whatever else was done is kept."""

    def __init__(self, text: str, *, num_failed: int = 0, query: str = "") -> None:
        super().__init__(text)
        self.num_failed = num_failed
        """Number of the study's jobs that failed, in this run or before."""
        self.query = query
        """The SQL that shows them."""


class DivergedError(RunError):
    """A training's loss is no number any more."""

    def __init__(self, text: str, *, step: int) -> None:
        super().__init__(text)
        self.step = step
        """Number of steps that were done before."""


class QueryError(SwapyardError):
    """The SQL, or what it asks for, cannot be answered."""


class OutOfTimeError(QueryError):
    """The query took longer than it may."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """The end of an error message: ``; did you mean 'x'?`` where a spelling is close, else nothing."""
    names = list(allowed)
    small = given[:_MOST_COMPARED].casefold()
    # Letters in another order, which are one slip, count for two in what difflib compares.
    close = [name for name in names if sorted(name.casefold()) == sorted(small) and name != given][:1]
    close = close or difflib.get_close_matches(given[:_MOST_COMPARED], names, n=1, cutoff=0.6)
    if not close and len(small) > 2:
        # Other capitals, or the beginning of one name alone.
        same = [name for name in names if name.casefold() == small]
        begun = [name for name in names if name.casefold().startswith(small)]
        close = same[:1] or (begun if len(begun) == 1 else [])
    return f"; did you mean {close[0]!r}?" if close else ""


def counted(count: int, noun: str, nouns: str = "") -> str:
    """``1 job``, ``2,000 jobs``: a number with its noun; `nouns` are several, where not an s makes them."""
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"


def article(word: str) -> str:
    """``an int``, ``a str``: a word after its article, by how it begins (``a unit``, ``an hour``)."""
    begin = word.casefold()
    is_vowel = begin[:1] in set("aeio8") or (begin[:1] == "u" and begin[:3] != "uni" and begin[:2] != "us")
    return f"{'an' if is_vowel or begin.startswith(('hour', 'honest')) else 'a'} {word}"
