"""Promise: blocks without cells, and ranges that are cut to the model, are said with line and reason."""

from pathlib import Path

import pytest

from orchestrator.plan.planner import Planner
from orchestrator.run.progress import describe
from studies import load_study
from workers.errors import StudyError

from .world import Oracle

HEAD = """study: s
model: {ref: "zoo:mlp", vocab_size: 10, num_inputs: 3, width: 48, num_layers: 2, outputs: 28, seed: 0}
task: {name: digit_sum, values: 10, num_pairs: 20, seed: 0}
sweep:
"""
FULL = "  - {name: full, site: block_output, layer: 1, position: 0, variable: S}\n"
EMPTY = {
    "where: split = 'trian'": "where: \"split = 'trian'\" keeps 0 of 20 pairs: split is 'test', 'train';"
    " did you mean 'train'?",
    "layers: '5:2'": "layers '5:2' is empty: a range is 'START:STOP' with START below STOP",
    "layers: '4:'": "layers '4:' is empty: there are 2 layers, 0 to 1",
    "layer: '7:9'": "layer '7:9' is empty: there are 2 layers, 0 to 1",
}


def block(said: str) -> str:
    layers = "" if said.startswith("layer") else "layers: all, "
    return f"  - {{name: none, site: block_output, {layers}position: 0, variable: S, {said}}}\n"


def planned(folder: Path, text: str) -> tuple[Path, list[str]]:
    path = folder / "s.yaml"
    path.write_text(text)
    draft = Planner(load_study(path), say=lambda line: None).draft(Oracle())
    return path, [line for line in describe(draft.plan) if line.startswith("note: ")]


@pytest.mark.parametrize("said", EMPTY)
def test_a_block_without_cells_beside_others_is_a_note(said: str, tmp_path: Path) -> None:
    path, notes = planned(tmp_path, HEAD + FULL + block(said))
    assert notes == [f"note: {path}:6: none: no cell, only other blocks have some: {EMPTY[said]}"]


@pytest.mark.parametrize("said", EMPTY)
def test_where_nothing_is_left_the_reason_of_each_block_is_an_error(said: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        planned(tmp_path, HEAD + block(said) + block(said).replace("none", "two"))
    path = tmp_path / "s.yaml"
    assert str(caught.value) == f"{path}:5: none: {EMPTY[said]}\n{path}:6: two: {EMPTY[said]}"


def test_layers_that_are_cut_to_the_model_are_said(tmp_path: Path) -> None:
    cut = FULL.replace("layer: 1", "layers: '0:40'")
    path, notes = planned(tmp_path, HEAD + cut)
    assert notes == [f"note: {path}:5: full: layers '0:40' is cut to '0:2', for zoo:mlp has 2 layers"]


def test_blocks_that_do_all_that_they_say_need_no_word(tmp_path: Path) -> None:
    text = (
        HEAD
        + FULL
        + FULL.replace("full", "other").replace("layer: 1", "layers: '0:2', where: split = 'test'")
    )
    assert planned(tmp_path, text)[1] == []
