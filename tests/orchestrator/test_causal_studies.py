"""Promise: a causal model of one's own becomes a study by following its page, and its rows are what a loop by
hand gives."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import swapyard as sy
from workers.zoo.build import make

PAGE = (Path(__file__).parents[2] / "docs" / "causal-models.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's own model and study, in the folder in which they are run."""
    monkeypatch.chdir(tmp_path)
    (own,) = (block for block in blocks("python") if block.startswith("# parity.py"))
    (tmp_path / "parity.py").write_text(own, encoding="utf-8")
    return tmp_path


def test_the_page_works_as_written(page: Path) -> None:
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, names)
        for line in block.splitlines():
            if found := re.fullmatch(r"(model\.\w+\(.*\]) *# .*?(\d+)", line):
                assert eval(found[1], names) == int(found[2]), line
    assert len(names["label"]) == 1_000_000
    assert names["net"](names["base"], names["source"], units=[sy.Unit("S")]).output.tolist() == [[17]]


def test_the_studys_rows_are_those_of_a_loop_by_hand(page: Path) -> None:
    (text,), (query,) = blocks("yaml"), blocks("sql")
    results = sy.run(sy.load_study(text), store="store", executor="inline", trust=True)
    found = results.sql(query).fetchall()
    assert [(variable, layer) for variable, layer, *_ in found] == [
        *(("even", layer) for layer in (0, 1, 2)),
        ("large", 0),
    ]
    columns = ", ".join(f'"{run}.{name}"' for run in ("base", "source") for name in "abc")
    rows = results.sql(
        f"SELECT variable, layer, split, label_id, pred_id, iia, {columns} FROM results"
        " WHERE block = 'block0'"
    ).fetchall()
    model = sy.CausalModel(
        {name: range(10) for name in "abc"},
        {
            "even": lambda a, b: (a + b) % 2 == 0,
            "large": lambda c: c > 4,
            "O": lambda even, large: even & large,
        },
    )
    net = sy.IntervenableModel(
        make("mlp", width=30, num_inputs=3, vocab_size=10, num_layers=3, outputs=2, seed=0)
    )
    places = {"even": "0:10", "large": "10:20"}
    assert len(rows) == 2 * 40
    for variable, layer, split, label, predicted, iia, *inputs in rows:
        base, source = inputs[:3], inputs[3:]
        assert (layer, split) == (0, "test")
        assert label == model.interchange(base, {variable: source})["O"]
        unit = sy.Unit("block_output", layer=0, subspace=places[variable])
        logits = net(torch.tensor([base]), torch.tensor([source]), units=[unit]).logits
        assert predicted == logits[0, 0].argmax() and iia == (predicted == label)


def test_a_fit_is_made_for_each_variable_from_the_pairs_with_its_label(page: Path) -> None:
    study = (
        blocks("yaml")[0].partition("alignment:")[0]
        + """
fits: {R: {method: das, rank: 2, num_steps: 3, where: split = 'train'}}
where: split = 'test'
sweep: [{variables: [even, large], site: block_output, layer: 0, position: 0, subspace: R}]
"""
    )
    results = sy.run(sy.load_study(study), store="store", executor="inline", trust=True)
    fits = results.sql("SELECT per, num_pairs FROM fits ORDER BY per").fetchall()
    assert fits == [('{"variable": "even"}', 160), ('{"variable": "large"}', 160)]
    rows = results.sql(
        "SELECT variable, count(*), count(DISTINCT cell_id) FROM results GROUP BY ALL ORDER BY ALL"
    )
    assert rows.fetchall() == [("even", 40, 1), ("large", 40, 1)]
