"""Promise: plots are checked when a study is planned: columns, conditions and axes, each with its line."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.plan.planner import Planner
from studies import load_study
from tests.orchestrator.plan.world import Oracle
from workers.errors import StudyError

STUDY = """study: s
model: {ref: "zoo:mlp", vocab_size: 10, num_inputs: 3, width: 48, num_layers: 2, outputs: 28, seed: 0}
task: {name: digit_sum, values: 10, num_pairs: 20, seed: 0}
sweep:
  - {site: block_output, layers: all, position: 0, variable: S}
plots:
"""
GOOD = "{kind: heatmap, x: base_position, y: layer, fill: iia, where: layer < 5}"


def check(folder: Path, *plots: str) -> list[str]:
    """The lines of the error of a study with these plots, from after the file's name."""
    path = folder / "s.yaml"
    path.write_text(STUDY + "".join(f"  p{n}: {plot}\n" for n, plot in enumerate(plots)))
    try:
        draft = Planner(load_study(path), say=lambda line: None).draft(Oracle())
    except StudyError as error:
        return [line.removeprefix(f"{path}:") for line in str(error).splitlines()]
    return [note.removeprefix(f"{path}:") for note in draft.plan.head.get("notes", ())]


@pytest.mark.parametrize(
    ("change", "said", "nearest"),
    [
        (
            ("base_position", "base_positon"),
            "x: the view results has no column 'base_positon'",
            "'base_position'",
        ),
        (("y: layer", "y: layr"), "y: the view results has no column 'layr'", "'layer'"),
        (("fill: iia", "fill: ia"), "fill: the view results has no column 'ia'", "'iia'"),
        (("fill: iia", "fill: [iia, avg(prb)]"), "fill: the view results has no column 'prb'", "'prob'"),
        (("fill: iia", "fill: iia, facet: sit"), "facet: the view results has no column 'sit'", "'site'"),
        (("layer < 5", "layr = 3"), "where: 'layr = 3': no column 'layr'", "'layer'"),
        (("layer < 5", "random() > 0"), "where: 'random() > 0': random(), a function", ""),
        (("layer < 5", "layer = (FROM cells)"), "where: 'layer = (FROM cells)': a subquery", ""),
        (("layer < 5", "max(layer) = 1"), "where: 'max(layer) = 1': max(), an aggregate", ""),
        (("layer < 5", "layer = 'a'"), "where: \"layer = 'a'\": Conversion Error", ""),
        (("fill: iia", "fill: model"), "fill: 'model' is text, which has no mean", ""),
        (("fill: iia", "fill: iia, log: x"), "log: 'x' cannot be drawn; heatmap takes log: fill", ""),
        (("fill: iia", "fill: estimated_effect, view: screening"), "view: 'screening' stays empty", ""),
        (("y: layer", "y: 'layer +'"), "y: 'layer +': Parser Error", ""),
    ],
)
def test_a_fault_of_a_plot_is_told_before_the_run(
    change: tuple[str, str], said: str, nearest: str, tmp_path: Path
) -> None:
    lines = check(tmp_path, GOOD, GOOD.replace(*change))
    assert lines[0].startswith(f"8: plots.p1: {said}")
    assert f"did you mean {nearest}?" in lines[0] or not nearest


def test_all_faults_of_all_plots_are_told_at_once(tmp_path: Path) -> None:
    lines = check(tmp_path, GOOD.replace("layer", "layr"), GOOD, GOOD.replace("iia", "ia"))
    assert [line.partition(" the view")[0].partition(": 'layr")[0] for line in lines] == [
        "7: plots.p0: y:",
        "7: plots.p0: where",
        "9: plots.p2: fill:",
    ]


def test_what_can_be_drawn_is_not_refused(tmp_path: Path) -> None:
    others = (
        "{kind: bars, view: scores, x: [layer, site], y: prob, facet: role}",
        "{kind: heatmap, x: base_position, y: layer, fill: [recovered, max(prob), IIA, count(*)]}",
        "{kind: bars, x: layer % 2, y: avg(prob) - 1, where: \"split = 'test' AND block IN ('block0')\"}",
    )
    assert check(tmp_path, GOOD, *others) == []


def test_a_plot_that_meets_no_cell_is_a_note(tmp_path: Path) -> None:
    found = check(tmp_path, GOOD.replace("layer < 5", "layer = 7"))
    assert found == ["7: plots.p0: where: 'layer = 7' meets no cell: nothing to draw"]


def test_checking_plots_loads_no_library_that_draws() -> None:
    code = (
        "import orchestrator.run.overview, sys; assert not {'matplotlib', 'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
