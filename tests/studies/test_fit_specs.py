"""Promise: a fit takes what its method uses, and says what that is."""

from typing import Any

import pytest

from studies import Block, Fit, Study
from studies.language.values import as_written, tokens_at
from workers.errors import StudyError
from workers.fit_methods import DEFAULTS, METHODS


def test_every_method_has_its_defaults() -> None:
    assert set(METHODS) == set(DEFAULTS)
    given = {"rank": 1, "path": "w.safetensors"}
    for method in METHODS:
        Fit(method=method, **{key: value for key, value in given.items() if key in DEFAULTS[method]})


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (
            {"method": "pca", "rank": 1, "lr": 0.1},
            "the method 'pca' does not use 'lr'; allowed: method, of, rank",
        ),
        ({"method": "mean", "seed": 0}, "the method 'mean' does not use 'seed'"),
        ({"method": "random_rotation", "where": "a = 1"}, "does not use 'where'"),
        ({"method": "das"}, "the key 'rank' or 'ranks' is missing; the method 'das' needs it"),
        ({"method": "das", "rank": 1, "lr": "$a"}, "a number; a fit's own axes are ranks and seeds"),
        ({"method": "mask", "temperature": [1]}, "two temperatures above 0"),
        ({"method": "mask", "temperature": [1, 0]}, "two temperatures above 0"),
        ({"method": "rotation"}, "random_rotation"),
    ],
)
def test_what_a_method_does_not_use_is_refused(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(StudyError, match=text):
        Fit(**keys)


@pytest.mark.parametrize(
    ("name", "text"), [("all", "all dimensions already"), ("mean", "says where a value")]
)
def test_a_name_that_means_something_else_is_refused(name: str, text: str) -> None:
    with pytest.raises(StudyError, match=rf"fits\.{name}: '{name}' .*{text}.*give it a name of its own"):
        Study(
            study="s",
            model="gpt2",
            pairs=[{"base": "a"}],
            fits={name: Fit(method="das", rank=1)},
            sweep=[Block(site="block_output", layer=0, position=0)],
        )


@pytest.mark.parametrize(
    ("written", "names", "found"),
    [
        (-1, {}, (-1,)),
        ("all", {}, ("all",)),
        ("$position", {"position": "subject.last"}, ("subject.last",)),
        (["$position", 4], {"position": 2}, (2, 4)),
        ("$layer+1", {"layer": 2}, (3,)),
        ("$a:", {"a": 2}, ("2:",)),
    ],
)
def test_a_position_is_written_out_with_its_references_filled_in(
    written: Any, names: dict[str, Any], found: tuple[int | str, ...]
) -> None:
    assert as_written(written, names) == found


@pytest.mark.parametrize(
    ("position", "found"),
    [
        ((-1,), (4,)),
        (("all",), (0, 1, 2, 3, 4)),
        (("2:",), (2, 3, 4)),
        (("x",), (1, 2)),
        (("x.last", 4), (2, 4)),
        (("x", 1), (1, 2)),
        ((5,), None),
        (("y",), None),
        (("x[7]",), None),
        (("5:",), None),
    ],
)
def test_a_written_position_means_tokens_of_each_prompt(
    position: tuple[int | str, ...], found: tuple[int, ...] | None
) -> None:
    assert tokens_at(position, 5, {"x": (1, 3)}) == found
