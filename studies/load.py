"""Reading studies: from a path, from the name of a bundled study, or from text."""

__all__ = ["BUNDLED", "load_all", "load_study"]

from collections.abc import Iterator
from pathlib import Path

from studies.spec import Study
from studies.yaml import read_all_yaml, read_yaml
from workers.errors import StudyError, nearest

BUNDLED = Path(__file__).parent
"""The folder of the bundled studies."""


def load_study(path_or_text: str | Path) -> Study:
    """The study in a file, a bundled study by its bare name, or a study written as text.

    A path to pairs is taken relative to the study file's folder. Text is what has more than one line,
    or a colon with a space after it.

    Raises:
        StudyError: there is no such file, or its content is no study.
    """
    given = str(path_or_text)
    if isinstance(path_or_text, str) and ("\n" in given or ": " in given):
        return Study.from_text(read_yaml(given))
    path = find_study(given)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{given}: the study cannot be read: {error}") from None
    study = Study.from_text(read_yaml(text, given))
    return _with_whole_path(study, path)


def load_all(text: str, name: str = "<text>") -> Iterator[Study]:
    """Each document of `text` as a study. Raises as `load_study` does."""
    return (Study.from_text(document) for document in read_all_yaml(text, name))


def find_study(given: str) -> Path:
    """The file that a path or the bare name of a bundled study means.

    Raises:
        StudyError: there is neither.
    """
    path = Path(given).expanduser()
    bundled = {file.stem: file for file in sorted(BUNDLED.glob("*.yaml"))}
    if path.is_file():
        return path
    if given in bundled:
        return bundled[given]
    names = ", ".join(bundled)
    raise StudyError(f"{given}: no such study file; bundled studies: {names}{nearest(given, bundled)}")


def _with_whole_path(study: Study, path: Path) -> Study:
    """So that the study means the same pairs wherever it is read again."""
    if not isinstance(study.pairs, str):
        return study
    whole = (path.resolve().parent / Path(study.pairs).expanduser()).resolve()
    return study.model_copy(update={"pairs": str(whole)})
