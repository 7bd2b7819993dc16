"""Promise: benchmarks measure what they say. Numbers and counts are tested here, times never."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks import count, eta, fits, gpu, growth, heads, peers, report, start
from benchmarks.setting import (
    Operations,
    Setting,
    bases_of,
    load_folder,
    model_folder,
    operations_done,
    plain_forward,
    random_pairs,
    sweep,
)
from benchmarks.studies import run_study
from studies import load_study
from workers.model.loading import LoadedModel

QUICK = Namespace(quick=True, rounds=1, device="cpu")
TINY = ("gpt2-tiny", "llama-tiny")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(scope="module", params=TINY)
def model(request: pytest.FixtureRequest, scratch: Path) -> LoadedModel:
    torch.set_num_threads(1)
    return load_folder(model_folder(request.param, scratch))


def test_a_peer_in_its_own_process_gives_our_numbers(scratch: Path) -> None:
    ways = peers.compare(peers.QUICK[0], scratch, sys.executable, ["hooks"], QUICK)
    assert [way.name for way in ways][-2:] == ["hooks, full logits", "hooks, last logits"]
    assert all(way.difference <= 1e-5 and len(way.rates) == 1 for way in ways)
    assert "hooks, last logits" in peers.shown(ways)


def test_numbers_that_differ_are_no_result() -> None:
    cell = ("mlp_output", 0, 1)
    way = peers.Way(name="another library", run=lambda cells: pytest.fail("is not run"))
    ours = {cell: torch.ones(2, 3).numpy()}
    peers._compare(way, {cell: ours[cell] + 1e-6}, ours)
    with pytest.raises(RuntimeError, match="another library has other numbers"):
        peers._compare(way, {cell: ours[cell] + 0.01}, ours)


def test_samples_of_cells_are_spread_over_the_sweep_and_others_in_each_round() -> None:
    cells = sweep(Setting("any", 6, 5, (1, 5)), num_layers=12)
    first, second = (peers.sample(cells, 6, number) for number in (1, 2))
    assert first != second
    assert {layer // 2 for _, layer, _ in first} == {layer // 2 for _, layer, _ in second} == set(range(6))


def test_operations_of_a_plain_forward_are_those_that_torch_counts(model: LoadedModel) -> None:
    pairs = random_pairs(3, 1, 400, seed=0)
    assert operations_done(plain_forward(model, bases_of(pairs))) == 3 * Operations.of(model).plain(1)


def test_the_engine_does_the_operations_of_the_count_and_hardly_more(model: LoadedModel) -> None:
    setting = Setting("any", 6, 8, (1, 5))
    operations, wheres = Operations.of(model), sweep(setting, model.facts.num_layers)
    needed = 2 * operations.plain(6) - operations.head
    needed += sum(operations.changed(layer, at, 6) for _, layer, at in wheres)
    assert 0.98 * needed < count._done(model, setting, wheres) < 1.03 * needed


def test_the_share_of_the_count_is_told_for_the_engine(scratch: Path) -> None:
    found = count.measure(count.QUICK[0], scratch, [count.ENGINE], rounds=1)
    assert found.allows > 1 and found.share[count.ENGINE][0] > found.least[count.ENGINE][0] > 0
    assert "gpt2-tiny, 6 tokens, 8 pairs: engine alone" in count.shown([found])


def test_a_run_is_measured_and_its_rows_are_those_of_the_sweep(scratch: Path) -> None:
    setting, pairs = count.QUICK[0], random_pairs(8, 6, 400, seed=0)
    seconds = count._run(setting, scratch, "run", "inline", pairs, num_cells=16, num_idle=1)
    assert 0 < seconds < 300


def test_cost_is_measured_along_an_axis(scratch: Path) -> None:
    part = growth.cost(scratch, QUICK)
    assert [(one["axis"], one["value"]) for one in part.numbers] == [("pairs", 2), ("pairs", 8)]


def test_jobs_whose_source_is_their_base_need_no_run(scratch: Path) -> None:
    study = growth._small_study(scratch, "noop", growth.CELLS, is_noop=True)
    done = run_study(study, scratch / "runs", "--executor", "inline")
    assert done.tiers == {"unchanged": growth.CELLS} and 0 < done.work_s < done.wall_s


def test_memory_is_that_of_a_run_of_real_jobs(scratch: Path) -> None:
    study = growth._small_study(scratch, "memory", growth.CELLS, is_noop=False)
    done, peaks = growth.watched_run(study, scratch / "runs", "--executor", "inline")
    assert done.num_jobs == growth.CELLS and "unchanged" not in done.tiers
    assert peaks["driver"] > 50


def test_the_first_rows_of_a_run_are_seen(scratch: Path) -> None:
    study = growth._small_study(scratch, "first", growth.CELLS, is_noop=False)
    assert start.first_rows(study, scratch / "first-runs", "inline") > 0


def test_only_its_own_part_of_the_page_is_replaced() -> None:
    page = "before\n<!-- count -->\nold\n<!-- /count -->\nafter\n"
    assert report.replaced(page, "count", "new") == "before\n<!-- count -->\nnew\n<!-- /count -->\nafter\n"
    with pytest.raises(ValueError, match="no part <!-- start -->"):
        report.replaced(page, "start", "new")


def test_the_page_has_a_part_for_each_benchmark() -> None:
    page = (report.DOCS / report.PAGE).read_text("utf-8")
    for name in ("peers", "count", "growth", "start", "eta"):
        assert report.replaced(page, name, "new") != page


def test_a_part_that_takes_too_long_is_ended_with_its_children_and_told(tmp_path: Path) -> None:
    code = "import subprocess; print('begun', flush=True); subprocess.run(['sleep', '613'])"
    slow = gpu.Part("slow", "sleeps", (sys.executable, "-c", code), limit_s=1.5)
    fine = gpu.Part("fine", "speaks", (sys.executable, "-c", "print('said')"), limit_s=60)
    bad = gpu.Part("bad", "fails", (sys.executable, "-c", "raise SystemExit(3)"), limit_s=60)
    answers = [gpu.ask(part, tmp_path) for part in (slow, fine, bad)]
    assert [one.state for one in answers] == ["out of time", "ok", "failed (code 3)"]
    assert [one.output for one in answers] == ["begun", "said", ""]
    gpu.write(answers, tmp_path)
    assert "## speaks: ok" in (tmp_path / "gpu.md").read_text("utf-8")
    found = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    assert [one["name"] for one in found["parts"]] == ["slow", "fine", "bad"]
    sleeping = [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "613"]]
    assert sleeping == []


def test_the_parts_of_the_gpu_command_end_within_eight_minutes() -> None:
    assert sum(part.limit_s for part in gpu.parts("cuda", quick=False)) <= 480


def test_all_heads_are_patched_and_counted(scratch: Path) -> None:
    done = heads.run_heads(scratch, "gpt2-tiny", 2, "cpu")
    assert done.num_jobs == 2 * 4 * 4 and set(done.tiers) == {"resumed"}


def test_a_step_of_a_fit_is_timed_on_both_sides(model: LoadedModel) -> None:
    (one, *_) = fits.measure("tiny", model, 1, fits.FEW + 1)
    assert len(one.ours) == len(one.by_hand) == 1
    assert "tiny, block_output 0, rank 1" in fits.shown([one])


def test_what_a_run_said_is_divided_by_what_was_left() -> None:
    told = eta.Told(
        "sweep", "inline", 100.0, ((5.0, 400.0), (20.0, 80.0), (50.0, 25.0), (90.0, 20.0), (98.0, 9.0))
    )
    assert told.ratios == [(0.05, 400 / 95), (0.2, 1.0), (0.5, 0.5), (0.9, 2.0)]
    assert told.counted == [1.0, 0.5, 2.0] and told.first == 0.05
    assert [told.at(share) for share in (0.04, 0.1, 0.5, 0.75)] == [None, 400 / 95, 0.5, 0.5]
    never = eta.Told("fits", "ray", 10.0, ())
    shown = eta.shown([told, never]).splitlines()
    assert [cell.strip() for cell in shown[2].split("|")[1:-1]] == [
        *("sweep, inline", "4.21", "1.00", "0.50", "0.50", "2.00", "0.50", "2.00", "5%", "100")
    ]
    assert shown[3].count("unknown") == 7 and "never" in shown[3]


def test_the_studies_of_time_left_are_studies(scratch: Path) -> None:
    for name, make in eta.STUDIES.items():
        made = load_study(str(make(scratch, eta.SMALL)))
        assert made.study == name and made.blocks()
