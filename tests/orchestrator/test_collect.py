"""Promise: what a study collects is in the view `activations`, number for number what a plain hook sees, also
where the cell changes something, and through failures, retries and merges."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from running import capital_pairs, start, write_study
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import swapyard as sy
from orchestrator.query.connection import connect
from orchestrator.store import StudyStore
from tests.workers import plain
from workers.errors import StudyError

CLOSE = 1e-5
LOOK = {"intervention": "collect", "site": "mlp_output", "layer": 1}


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_folder).eval()


def run(folder: Path, model: Path, *sweep: Any, **more: Any) -> sy.Results:
    study = sy.Study(study="s", model=str(model), pairs=capital_pairs(), sweep=sweep, **more)
    results = sy.run(study, store=folder, executor="inline", quiet=True)
    assert results.sql("SELECT DISTINCT error_message FROM failures").fetchall() == []
    return results


def seen(model: Any, folder: Path, text: str, path: str, side: str = "output") -> Tensor:
    """What is at a path [T, W] in a run of the text."""
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return plain.record(model, ids, path, side)[0]


def same(found: Any, wanted: Tensor) -> None:
    torch.testing.assert_close(torch.tensor(found), wanted, atol=CLOSE, rtol=0)


def test_the_command_line_gives_the_numbers_that_a_hook_sees(
    tmp_path: Path, tiny_folder: Path, model: Any
) -> None:
    sweep = [{"site": "block_output", "layers": [0, 2], "positions": [-1, 1], "intervention": "collect"}]
    study = write_study(tmp_path, "look", tiny_folder, capital_pairs(), sweep=sweep)
    options = ("--executor", "inline", "--no-plots", "--store", tmp_path / "runs")
    process = start("run", study, *options, cwd=tmp_path, cache=tmp_path / "cache")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    sql = (
        "SELECT base, layer, position, base_position, collected_unit, collected_token, collected"
        " FROM activations"
    )
    asked = ("query", sql, "--format", "json", "--store", tmp_path / "runs")
    process = start(*asked, cwd=tmp_path, cache=tmp_path / "cache")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    rows = json.loads(output)
    assert len(rows) == 2 * 2 * 12
    for row in rows:
        held = seen(model, tiny_folder, row["base"], f"model.layers.{row['layer']}")
        same(row["collected"], held[row["position"]])
        token = {-1: 4, 1: 1}[row["position"]]
        assert (row["base_position"], row["collected_unit"], row["collected_token"]) == (token, 0, token)


def test_several_units_and_tokens_are_told_apart(tmp_path: Path, tiny_folder: Path, model: Any) -> None:
    units = [
        {**LOOK, "position": [3, 1]},
        {"site": "model.layers.2.mlp", "coordinates": "1:3, 4:9", "intervention": "collect"},
        {**LOOK, "position": -1, "subspace": "0:4"},
        {
            "site": "attention_value_output",
            "layer": 0,
            "head": [1, 3],
            "position": 2,
            "intervention": "collect",
        },
    ]
    results = run(tmp_path, tiny_folder, {"units": units})
    found: dict[str, list[tuple[int, int | None, list[float]]]] = defaultdict(list)
    for base, *one in results.sql(
        "SELECT DISTINCT base, collected_unit, collected_token, collected FROM activations ORDER BY ALL"
    ).fetchall():
        found[base].append((one[0], one[1], one[2]))
    for base, rows in found.items():
        assert [(unit, token) for unit, token, _ in rows] == [(0, 1), (0, 3), (1, None), (2, 4), (3, 2)]
        mlp, later = (seen(model, tiny_folder, base, f"model.layers.{layer}.mlp") for layer in (1, 2))
        heads = seen(model, tiny_folder, base, "model.layers.0.self_attn.o_proj", "input")[2]
        by_head = heads.reshape(4, -1)
        wanted = [mlp[1], mlp[3], later[1:3, 4:9].flatten(), mlp[4, :4], by_head[[1, 3]].flatten()]
        for (_, _, vector), numbers in zip(rows, wanted, strict=True):
            same(vector, numbers)


def test_coordinates_of_a_fit_are_those_of_its_subspace(
    tmp_path: Path, tiny_folder: Path, model: Any
) -> None:
    fits = {"P": {"method": "pca", "rank": 2}}
    block = {**LOOK, "position": -1, "subspaces": ["P", "all"]}
    results = run(tmp_path, tiny_folder, block, fits=fits)
    rows = results.sql("SELECT subspace, list(collected ORDER BY pair_id) FROM activations GROUP BY ALL")
    found = {subspace: torch.tensor(vectors) for subspace, vectors in rows.fetchall()}
    assert found["P"].shape == (12, 2) and found["all"].shape == (12, 32)
    centred, whole = (one.double() - one.double().mean(0) for one in (found["P"], found["all"]))
    # The two coordinates are those of the most variance: their Gram matrix is that of the best rank 2.
    left, sizes, _ = torch.linalg.svd(whole, full_matrices=False)
    best = left[:, :2] * sizes[:2]
    torch.testing.assert_close(centred @ centred.mT, best @ best.mT, atol=1e-5, rtol=1e-5)


def test_a_cell_that_changes_something_collects_what_then_is_there(
    tmp_path: Path, tiny_folder: Path, model: Any
) -> None:
    swap = {"site": "block_output", "layer": 0, "position": "all"}
    before = {**LOOK, "site": "block_output", "layer": 0, "position": -1}
    results = run(tmp_path, tiny_folder, {"units": [before, swap, before, {**LOOK, "position": -1}]})
    sql = "SELECT base, source, collected_unit, collected FROM activations"
    rows = results.sql(sql).fetchall()
    assert len(rows) == 3 * 12
    for base, source, unit, vector in rows:
        text, path = (base if unit == 0 else source), "model.layers.1.mlp" if unit == 3 else "model.layers.0"
        same(vector, seen(model, tiny_folder, text, path)[-1])


def test_a_cell_that_only_collects_has_the_base_runs_answer(tmp_path: Path, tiny_folder: Path) -> None:
    results = run(tmp_path, tiny_folder, {**LOOK, "position": 0})
    ((num, worst),) = results.sql(
        "SELECT count(*), max(abs(logit_diff - base_run_logit_diff)) FROM results"
    ).fetchall()
    assert num == 12 and worst < CLOSE


def test_cells_that_collect_nothing_leave_no_trace_in_the_file(tmp_path: Path, tiny_folder: Path) -> None:
    results = run(tmp_path, tiny_folder, {"site": "mlp_output", "layer": 1, "position": -1})
    assert results.sql("SELECT count(*) FROM activations").fetchall() == [(0,)]
    state = StudyStore(tmp_path / "s").state()
    for part in state.live.values():
        assert "collected" not in StudyStore(tmp_path / "s").read_part(part).column_names


def test_merged_files_and_those_without_collections_are_read_together(
    tmp_path: Path, tiny_folder: Path
) -> None:
    store = StudyStore(tmp_path / "s")
    sql = "SELECT layer, pair_id, collected_token, collected FROM activations ORDER BY ALL"
    place = {"site": "mlp_output", "position": -1}
    run(tmp_path, tiny_folder, {**place, "layer": 1, "interventions": ["vanilla"]})
    run(tmp_path, tiny_folder, {**place, "layer": 1, "interventions": ["vanilla", "collect"]})
    block = {**place, "layers": [1, 2], "interventions": ["vanilla", "collect"]}
    expected = run(tmp_path, tiny_folder, block).sql(sql).fetchall()
    assert len(expected) == 24 and len(store.state().files) > 1
    with store.open_driver() as driver:
        merge = driver.next_merge(most_files=1)
        assert merge is not None
        merged = store.merge(driver.epoch, merge).file
        assert merged is not None
        driver.commit_merged(merged)
    assert len(store.state().files) == 1
    connection = connect([tmp_path / "s"])
    assert connection.sql(sql).fetchall() == expected
    assert connection.sql("SELECT count(*) FROM results").fetchall() == [(48,)]


def test_a_retry_brings_what_the_failed_job_collects(
    tmp_path: Path, tiny_folder: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = (
        "from pathlib import Path\n\ndef late(old, new):\n    assert Path('ready').exists()\n    return new\n"
    )
    (tmp_path / "own_late.py").write_text(code, encoding="utf-8")
    swap = {"site": "mlp_output", "layer": 0, "position": -1}
    sweep = [{"units": [{**swap, "intervention": "own_late:late"}, {**LOOK, "position": -1}]}, {**swap}]
    study = sy.Study(study="s", model=str(tiny_folder), pairs=capital_pairs(), sweep=sweep)
    options: dict[str, Any] = {
        "store": tmp_path / "runs",
        "executor": "inline",
        "quiet": True,
        "on_failure": "keep",
    }
    results = sy.run(study, **options)
    counts = "SELECT (SELECT count(*) FROM failures), (SELECT count(*) FROM activations)"
    assert results.sql(counts).fetchall() == [(12, 0)]
    (tmp_path / "ready").touch()
    results = sy.run(study, retry_failed=True, **options)
    assert results.sql(counts).fetchall() == [(0, 12)]
    assert results.sql("SELECT DISTINCT len(collected) FROM activations").fetchall() == [(32,)]


def test_a_run_that_values_come_from_collects_nothing(tmp_path: Path, tiny_folder: Path) -> None:
    block = {**LOOK, "intervention": "vanilla", "position": 0, "from": "a", "runs": {"a": [LOOK]}}
    with pytest.raises(StudyError, match="'collect' in a run, which is there to change things"):
        run(tmp_path, tiny_folder, block)
