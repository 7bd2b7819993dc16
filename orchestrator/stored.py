"""Studies by whatever a user calls them: a file, a bundled name, or the name of one that lies in a store."""

__all__ = ["load_named"]

from pathlib import Path

from orchestrator.roots import find_studies, study_folders
from orchestrator.store import StudyStore
from studies import Study, load_study
from studies.load import BUNDLED
from workers.errors import StoreError, StudyError, nearest


def load_named(given: str, store: Path) -> Study:
    """The study in a file, a bundled one by its name, or one below `store` as it was planned last.

    Raises:
        StudyError: there is none of these, or it is no study.
        StoreError: the stored one cannot be read.
    """
    bundled = {path.stem for path in BUNDLED.glob("*.yaml")}
    if Path(given).expanduser().is_file() or given in bundled or "\n" in given or ": " in given:
        return load_study(given)
    folders = {folder.name: folder for folder in find_studies(store)}
    if given not in folders:
        verb = "is" if len(folders) <= 1 else "are"
        known = sorted({*bundled, *folders})
        raise StudyError(
            f"{given}: no such study file, nor a study of that name; bundled studies:"
            f" {', '.join(sorted(bundled))}; in {store} {verb} {', '.join(folders) or 'none'}"
            f"{nearest(given, known)}"
        )
    (folder,) = study_folders(store, [given])
    plan = StudyStore(folder).latest_plan()
    if plan is None:
        raise StoreError(f"the study in {folder} has no plan yet; run it from its file")
    return load_study(StudyStore(folder).read_plan_file(plan, "study.yaml").decode())
