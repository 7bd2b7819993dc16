"""Promise: whatever a study file says wrong, the refusal has file and line, the value and the nearest name.

Many faulty studies, each with one fault at one line; whether it is reading or planning that finds it makes no
difference.
"""

from pathlib import Path

import pytest

from orchestrator.plan.planner import Planner
from studies import load_study
from tests.orchestrator.plan.world import Oracle
from workers.errors import SwapyardError

STUDY = """study: faulty
model: {ref: "zoo:mlp", vocab_size: 10, num_inputs: 3, width: 48, num_layers: 2, outputs: 28, seed: 0}
task: {name: digit_sum, values: 10, num_pairs: 20, seed: 0}
fits:
  das: {method: das, rank: 2}
  steer: {method: mean_difference}
sweep:
  - name: first
    site: block_output
    layers: all
    position: 0
    variable: S
    intervention: vanilla
    from: source
    subspaces: [all, das]
    where: split = 'test'
  - name: second
    variable: S
    for: {amount: [1, 2]}
    runs: {changed: [{site: block_output, layer: 0, position: 0}]}
    units: [{site: block_output, layer: 1, position: 0, from: changed, subspace: all}]
plots:
  map: {kind: heatmap, x: base_position, y: layer, fill: iia, where: layer < 5}
"""
FAULTS = [
    # what is written, what is written instead, the line, what is said of it, the nearest
    ("model: {ref", "modle: {ref", 2, "'modle'", "'model'"),
    ("zoo:mlp", "zoo:mpl", 2, "'zoo:mpl'", "'mlp'"),
    ("width: 48", "width: 48, widht: 9", 2, "widht", "'width'"),
    ("name: digit_sum", "name: digit_smu", 3, "'digit_smu'", "'digit_sum'"),
    ("values: 10", "valeus: 10", 3, "'valeus'", "'values'"),
    ("num_pairs: 20", "num_pairs: -1", 3, "-1", ""),
    ("method: das", "method: dsa", 5, "'dsa'", "'das'"),
    ("rank: 2", "rnak: 2", 5, "'rnak'", "'rank'"),
    ("rank: 2", "rank: 0", 5, "0 is not allowed", ""),
    ("rank: 2", "rank: 49", 5, "rank 49", ""),
    ("mean_difference}", "mean_diference}", 6, "'mean_diference'", "'mean_difference'"),
    ("site: block_output\n", "site: block_ouptut\n", 9, "'block_ouptut'", "'block_output'"),
    ("site: block_output\n", "stie: block_output\n", 9, "'stie'", "'site'"),
    ("layers: all", "layers: al", 10, "'al'", ""),
    ("layers: all", "layers: [0, 7]", 10, "layer 7 is not there", ""),
    ("layers: all", "layers: [0, 0]", 10, "[0, 0]", ""),
    ("position: 0\n    variable", "position: 9\n    variable", 11, "position 9", ""),
    ("variable: S\n    inter", "variable: T\n    inter", 12, "'T'", ""),
    ("vanilla", "vanila", 13, "'vanila'", "'vanilla'"),
    ("from: source", "from: sorce", 14, "'sorce'", "'source'"),
    ("from: source", "from: ster", 14, "'ster'", "'steer'"),
    ("from: source", "from: source_3", 14, "'source_3'", ""),
    ("[all, das]", "[all, dsa]", 15, "'dsa'", "'das'"),
    ("[all, das]", "[all, '0:99']", 15, "0:99", ""),
    ("split = 'test'", "splti = 'test'", 16, "'splti'", "'split'"),
    ("split = 'test'", "random() < 1", 16, "random()", ""),
    ("name: second", "name: first", 17, "'first'", ""),
    ("amount: [1, 2]", "layer: [1, 2]", 19, "'layer'", ""),
    ("amount: [1, 2]", "amount: 1", 19, "1 is not allowed", ""),
    ("layer: 0, position", "laeyr: 0, position", 20, "'laeyr'", "'layer'"),
    ("from: changed", "from: chnaged", 21, "'chnaged'", "'changed'"),
    ("from: changed", "from: $amuont", 21, "'$amuont'", "'amount'"),
    ("subspace: all", "subspace: dass", 21, "'dass'", "'das'"),
    ("layer: 1", "layer: 9", 21, "layer 9 is not there", ""),
    ("kind: heatmap", "kind: heatmpa", 23, "'heatmpa'", "'heatmap'"),
    ("y: layer", "y: layre", 23, "'layre'", "'layer'"),
    ("layer < 5", "layre < 5", 23, "'layre'", "'layer'"),
]


@pytest.mark.parametrize(
    ("right", "wrong", "line", "value", "nearest"), FAULTS, ids=[f"{f[2]}: {f[1].strip()}" for f in FAULTS]
)
def test_a_refusal_names_the_line_the_value_and_the_nearest(
    right: str, wrong: str, line: int, value: str, nearest: str, tmp_path: Path
) -> None:
    assert right in STUDY
    path = tmp_path / "faulty.yaml"
    path.write_text(STUDY.replace(right, wrong, 1))
    with pytest.raises(SwapyardError) as caught:
        Planner(load_study(path), say=lambda text: None).draft(Oracle())
    said = str(caught.value).splitlines()
    mine = [one for one in said if one.startswith(f"{path}:{line}: ")]
    assert mine, said
    assert any(value in one for one in mine), mine
    assert not nearest or any(f"did you mean {nearest}?" in one for one in mine), mine
    assert all(one.startswith(f"{path}:") for one in said)


def test_the_study_without_a_fault_is_planned(tmp_path: Path) -> None:
    path = tmp_path / "sound.yaml"
    path.write_text(STUDY)
    assert Planner(load_study(path), say=lambda text: None).draft(Oracle()).complete


def test_several_faults_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "faulty.yaml"
    wrong = STUDY.replace("vanilla", "vanila").replace("from: changed", "from: chnaged").replace("48", "-1")
    path.write_text(wrong.replace("[all, das]", "[all, dsa]").replace("heatmap", "heatmpa"))
    with pytest.raises(SwapyardError) as caught:
        load_study(path)
    lines = [int(one.removeprefix(f"{path}:").partition(":")[0]) for one in str(caught.value).splitlines()]
    assert lines[:2] == [13, 23]
