"""Promise: a study changes what is no position, a rectangle of a module's tensor or what a getter of its own
finds, as a plain hook does; what cannot be says why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import capital_pairs
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import swapyard as sy
from tests.workers import plain
from workers.errors import StudyError

PATH = "model.layers.1"
BOX = (slice(None), slice(1, 3), slice(4, 9))
CLOSE = 1e-5
CODE = """
import torch

def box(tensor):
    return tensor[:, 1:3, 4:9]

def put(tensor, values):
    tensor[:, 1:3, 4:9] = values
    return tensor

def mixed(tensor):
    return tensor[:, 1:3, 4:9] - tensor.sum(0)[1:3, 4:9]

def one(tensor):
    return tensor[0]

def picky(tensor):
    if (tensor[:, -1, 0] < LEAST + 1e-6).any():
        raise ValueError("not this one")
    return tensor[:, 1:3, 4:9]

def other(tensor, values):
    return values
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with modules of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_folder).eval()


def run(folder: Path, model: Path, *sweep: Any, **more: Any) -> sy.Results:
    study = sy.Study(study="s", model=str(model), pairs=capital_pairs(), sweep=sweep, **more)
    return sy.run(study, store=folder / "store", executor="inline", quiet=True, on_failure="keep")


def found(results: sy.Results, column: str = "intervention") -> dict[str, list[float]]:
    """For each value of a column the label's logits, in the order of the pairs."""
    rows = results.sql(
        f"SELECT {column}, list(label_logit ORDER BY base, source) FROM results GROUP BY ALL"
    ).fetchall()
    assert results.sql("SELECT DISTINCT error_message FROM failures").fetchall() == []
    return dict(rows)


def by_hand(folder: Path, model: Any, change: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
    """The label's logits where a hook changes what the block returns [1, T, W], given what it returned of
    the source."""
    words = AutoTokenizer.from_pretrained(folder)
    logits = []
    for pair in sorted(capital_pairs(), key=lambda pair: (pair["base"], pair["source"])):
        base, source = (words(pair[run], return_tensors="pt")["input_ids"] for run in ("base", "source"))
        (label,) = words(pair["label"], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            held = plain.record(model, source, PATH, "output")
            changed = plain.run(model, base, [(PATH, "output", lambda old, held=held: change(old, held))])
        logits.append(changed[0, -1, label].item())
    return logits


def at(where: Any, change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A change of the values at some indices."""

    def touch(old: Tensor, source: Tensor) -> Tensor:
        new = old.clone()
        new[where] = change(old[where], source[where])
        return new

    return touch


def test_a_rectangle_is_changed_as_by_a_hook(folder: Path, tiny_folder: Path, model: Any) -> None:
    block = {"site": PATH, "coordinates": "1:3, 4:9", "interventions": ["vanilla", "add", "subtract"]}
    rows = found(run(folder, tiny_folder, block))
    for name, change in (("vanilla", lambda _, s: s), ("add", torch.add), ("subtract", torch.sub)):
        wanted = by_hand(tiny_folder, model, at(BOX, change))
        assert rows[name] == pytest.approx(wanted, abs=CLOSE), name
    assert rows["vanilla"] != pytest.approx(rows["add"], abs=1e-3)


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ("zero", lambda old, _: torch.zeros_like(old)),
        ("base", lambda old, _: old),
        ("doubled", lambda old, _: 2 * old),
        ({"run": "source", "coordinates": "-2:, 10:15"}, None),
    ],
)
def test_values_come_from_runs_and_from_elsewhere(
    folder: Path, tiny_folder: Path, model: Any, value: Any, change: Any
) -> None:
    """Also at a named site, whose tensor is that of the module."""
    runs = {"doubled": [{"intervention": "add", "from": "base"}]}
    place = {"site": "block_output", "layer": 1, "coordinates": "1:3, 4:9"}
    results = run(folder, tiny_folder, {**place, "from": value, "runs": runs})

    def elsewhere(old: Tensor, source: Tensor) -> Tensor:
        new = old.clone()
        new[BOX] = source[:, -2:, 10:15]
        return new

    wanted = by_hand(tiny_folder, model, elsewhere if change is None else at(BOX, change))
    assert found(results, "site")["block_output"] == pytest.approx(wanted, abs=CLOSE)
    assert results.sql("SELECT DISTINCT tier FROM results").fetchall() == [("hooked",)]


def test_an_axis_is_of_rectangles_and_one_rectangle_is_one_job_however_it_is_written(
    folder: Path, tiny_folder: Path, model: Any
) -> None:
    block = {"site": PATH, "for": {"at": ["1:3, 4:9", "1:3,4:9", ":2", "0:2, :", "4"]}, "coordinates": "$at"}
    results = run(folder, tiny_folder, block)
    rows = found(results, '"at"')
    assert (
        rows["1:3, 4:9"]
        == rows["1:3,4:9"]
        == pytest.approx(by_hand(tiny_folder, model, at(BOX, lambda _, s: s)), abs=CLOSE)
    )
    assert rows["4"] == pytest.approx(
        by_hand(tiny_folder, model, at((slice(None), 4), lambda _, s: s)), abs=CLOSE
    )
    assert results.sql("SELECT count(DISTINCT job_id), count(*) FROM results").fetchall() == [(36, 60)]
    assert results.sql("SELECT DISTINCT base_position, base_positions FROM results").fetchall() == [
        (None, [])
    ]


def test_a_getter_and_a_setter_find_what_a_rectangle_does(folder: Path, tiny_folder: Path) -> None:
    (folder / "box_own.py").write_text(CODE, encoding="utf-8")
    place = {"site": PATH, "interventions": ["vanilla", "subtract"]}
    own = {"get": "box_own:box", "set": "box_own:put"}
    results = run(
        folder,
        tiny_folder,
        {**place, "name": "box", "coordinates": "1:3, 4:9"},
        {**place, "name": "own", "coordinates": own},
        {**place, "name": "both", "coordinates": "1:3, 4:9", "from": {"run": "source", "coordinates": own}},
    )
    rows = found(results, "block || intervention")
    for name in ("vanilla", "subtract"):
        assert rows[f"own{name}"] == pytest.approx(rows[f"box{name}"], abs=CLOSE)
        assert rows[f"both{name}"] == pytest.approx(rows[f"box{name}"], abs=CLOSE)
    assert results.sql("SELECT count(DISTINCT job_id) FROM results").fetchall() == [(72,)]


def test_what_is_wrong_with_coordinates_is_said_in_their_rows(
    folder: Path, tiny_folder: Path, model: Any
) -> None:
    words = AutoTokenizer.from_pretrained(tiny_folder)
    ends = {
        pair["base"]: plain.record(
            model, words(pair["base"], return_tensors="pt")["input_ids"], PATH, "output"
        )
        for pair in capital_pairs()
    }
    least = min(float(held[0, -1, 0]) for held in ends.values())
    (folder / "box_wrong.py").write_text(CODE.replace("LEAST", str(least)), encoding="utf-8")
    named = {"one": "put", "mixed": "put", "box": "other", "picky": "put"}
    results = run(
        folder,
        tiny_folder,
        {"name": "fine", "site": PATH, "coordinates": "1:3, 4:9"},
        {"name": "large", "site": PATH, "coordinates": "1:3, 4:90"},
        *(
            {
                "name": get,
                "site": PATH,
                "from": "zero",
                "coordinates": {"get": f"box_wrong:{get}", "set": f"box_wrong:{put}"},
            }
            for get, put in named.items()
        ),
    )
    rows = results.sql(
        "SELECT block, count(*), any_value(error_message) FROM failures GROUP BY ALL"
    ).fetchall()
    texts = {block: (num, text) for block, num, text in rows}
    assert {block: num for block, (num, _) in texts.items()} == {
        **dict.fromkeys(("large", "one", "mixed", "box"), 12),
        "picky": 3,
    }, "of the twelve pairs three have the base that the getter refuses"
    says = {
        "large": r"Box[1:3, 4:90] in a tensor of [5, 32] for each example: name indices and ranges",
        "one": "the getter at model.layers.1:output returned [5, 32] for 1 examples; return a tensor",
        "mixed": "the function box_wrong:mixed does not give a row the same numbers again",
        "box": "the setter at model.layers.1:output returned [1, 2, 5]; return a tensor of [1, 5, 32]",
        "picky": "the function box_wrong:picky raised ValueError: not this one (box_wrong.py, line ",
    }
    for block, text in says.items():
        assert text in texts[block][1], block


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"coordinates": "a:b"}, "a rectangle such as '1:3, 4:9', or {get: module:function"),
        ({"coordinates": {"get": "m:f"}}, "a rectangle such as"),
        ({"coordinates": "3:3"}, "has nothing from 3 to 3"),
        ({"coordinates": "1:3", "position": 0}, "'position' beside coordinates"),
        ({"coordinates": "1:3", "positions": "all"}, "'positions' beside coordinates"),
        ({"coordinates": "1:3", "subspace": "0:4"}, "'subspace' beside coordinates"),
        ({"coordinates": "1:3", "from": {"run": "source", "position": 1}}, "a site, a layer and coordinates"),
        (
            {"position": 0, "from": {"run": "source", "coordinates": "1"}},
            "only beside coordinates of the unit",
        ),
        ({"coordinates": "1:3", "from": {"noise": 3}, "seed": 0}, "a value is taken from a run or is zero"),
        ({"coordinates": "1:3", "from": "mean"}, "a value is taken from a run or is zero"),
        ({"coordinates": "1:3", "intervention": "skip"}, "a value is taken from a run or is zero"),
    ],
)
def test_what_coordinates_cannot_say_is_refused_while_planning(
    folder: Path, tiny_folder: Path, more: dict[str, Any], says: str
) -> None:
    with pytest.raises(StudyError) as caught:
        run(folder, tiny_folder, {"site": PATH, **more})
    assert says in str(caught.value)
