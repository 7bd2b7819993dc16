"""Promise: a study may be named by its file wherever its name is taken, and by its name where a file is."""

from pathlib import Path

import pytest
from small_store import make_study

from orchestrator.store.study_dirs import load_named, name_in, study_folders
from orchestrator.upkeep.status import read_status
from workers.errors import StoreError, StudyError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("runs") / "small").parent


def test_a_stored_study_is_loaded_by_its_name(store: Path) -> None:
    assert load_named("small", store).study == "small"
    assert load_named("capitals", store).study == "capitals"


def test_a_name_that_is_nowhere_comes_with_all_that_are_and_the_nearest(store: Path) -> None:
    with pytest.raises(StudyError) as caught:
        load_named("smal", store)
    assert str(caught.value).startswith("smal: no such study file, nor a study of that name; bundled studies")
    assert str(caught.value).endswith(f"; in {store} is small; did you mean 'small'?")


def test_a_file_stands_for_the_study_that_it_defines(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "any.yaml"
    file.write_text("study: small\nmodel: gpt2\n")
    assert study_folders(store, [str(file)]) == [store / "small"]
    assert [one.study for one in read_status(store, [str(file)])] == ["small"]
    file.write_text("study: other\n")
    with pytest.raises(StoreError, match="has no study 'other'"):
        study_folders(store, [str(file)])
    file.write_text("model: gpt2\n")
    with pytest.raises(StudyError, match=r"any\.yaml:1: the key 'study' is missing"):
        name_in(str(file))
    assert name_in("small") is None and name_in("there-is-none.yaml") is None
