"""Promise: what pydantic finds wrong is told in one line, also where it calls and says things otherwise."""

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from studies.language.study import Study
from studies.problems import Problem, ProblemsError
from tests.workers.libraries.covering import outcome, without
from workers.errors import ModelError, StudyError
from workers.libraries import pydantic as library
from workers.zoo.configs import config_of

pytestmark = pytest.mark.versions

MLP = {"width": 4, "num_layers": 1, "outputs": 2, "seed": 0}


class Renamed:
    """Faults as another pydantic would give them."""

    def __init__(self, error: ValidationError, **changes: Any) -> None:
        self._error, self._changes = error, changes

    def errors(self, **given: Any) -> list[Mapping[str, Any]]:
        return [{**entry, **self._changes} for entry in self._error.errors(**given)]


def fault_of(options: Mapping[str, Any], **changes: Any) -> library.Fault:
    from workers.zoo.configs import MLPConfig

    with pytest.raises(ValidationError) as raised:
        MLPConfig.model_validate(options)
    error: Any = Renamed(raised.value, **changes)
    return library.faults(error)[0]


@without("pydantic", "kinds of errors")
def test_a_kind_of_another_name_is_known_by_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {key: value for key, value in MLP.items() if key != "seed"}
    assert fault_of(missing, type="field_missing").kind == "missing"
    assert fault_of({**MLP, "wide": 3}, type="extra").kind == "unknown"
    strange = fault_of({**MLP, "wide": 3}, type="extra", msg="No such field", ctx=None)
    assert (strange.kind, strange.wanted, strange.type) == ("other", "No such field", "extra")
    monkeypatch.setattr(library, "_KINDS", {})
    with pytest.raises(ModelError, match="model 'zoo:mlp' has no option 'wide'; its options are width"):
        config_of("mlp", {**MLP, "wide": 3})
    with pytest.raises(ModelError, match=r"num_inputs 3 must divide the width 4"):
        config_of("mlp", {**MLP, "num_inputs": 3})
    assert outcome("pydantic", "kinds of errors").told == (
        "told in pydantic's own words: empty, raised, what a check says"
    )


@without("pydantic", "the texts")
def test_other_texts_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fault_of({**MLP, "width": 0}).wanted == "greater than 0"
    other = fault_of({**MLP, "width": 0}, msg="The input must be greater than 0")
    assert other.wanted == "The input must be greater than 0"
    assert fault_of({**MLP, "activation": "rely"}).choices == ("relu", "leaky_relu", "gelu", "tanh")
    assert fault_of({**MLP, "activation": "rely"}, ctx={}).choices == ()
    monkeypatch.setattr(library, "_PREFIX", "Give ")
    with pytest.raises(ModelError, match="width is 0; it must be Input should be greater than 0"):
        config_of("mlp", {**MLP, "width": 0})
    assert outcome("pydantic", "the texts").told == "messages keep words of pydantic's"


@without("pydantic", "PydanticCustomError")
def test_problems_whose_context_is_lost_are_still_told(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ProblemsError([Problem(("a",), "one"), Problem(("b",), "two")])
    assert [problem.text for problem in error.problems] == ["one", "two"]
    monkeypatch.setattr(library.CarryingError, "load", None)
    assert [problem.text for problem in error.problems] == ["one"]
    monkeypatch.undo()
    monkeypatch.setattr(library, "_LOAD", "gone")
    assert outcome("pydantic", "PydanticCustomError").state == "ok"  # under one name it goes in and comes out

    def forgetful(entry: Mapping[str, Any]) -> library.Fault:
        return real({key: value for key, value in entry.items() if key != "ctx"})

    real = library._fault
    monkeypatch.setattr(library, "_fault", forgetful)
    with pytest.raises(StudyError, match=r"the key 'modle' is not allowed here; allowed: ") as raised:
        Study(study="s", modle="gpt2")
    assert "\n" not in str(raised.value).replace("\n...", "")
    assert outcome("pydantic", "PydanticCustomError").told == "only the first problem of a part is told"


@without("pydantic", "__pydantic_base_init__")
def test_parts_that_are_built_by_themselves_tell_one_problem_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Part(BaseModel):
        number: int

        if True:

            def __init__(self, **data: Any) -> None:
                try:
                    super().__init__(**data)
                except ValidationError as error:
                    raise StudyError(library.faults(error)[0].wanted) from None

    class Whole(BaseModel):
        parts: list[Part]

    with pytest.raises(StudyError, match="a valid integer"):
        Whole.model_validate({"parts": [{"number": "x"}, {"number": "y"}]})
    monkeypatch.setattr(library, "outermost_only", lambda init: init)
    assert outcome("pydantic", "__pydantic_base_init__").told == "problems of a study are told one at a time"
