"""Promise: what is far too large is counted and refused, with its line and the bound, before it is made."""

import resource
import time
from pathlib import Path

import pytest

from orchestrator.plan.planner import Planner
from studies import load_study
from studies.pairs.pair_rows import check_row
from tests.orchestrator.plan.world import Oracle
from workers.errors import StudyError

MODEL = "{ref: 'zoo:mlp', vocab_size: 10, num_inputs: 3, width: 48, num_layers: 2, outputs: 28, seed: 0}"
TASK = "{name: digit_sum, values: 10, num_pairs: 20, seed: 0}"
BLOCK = "{site: block_output, layers: all, position: 0, variable: S}"
DIGITS = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"


def text(block: str = BLOCK, *, model: str = MODEL, task: str = TASK, more: str = "") -> str:
    return f"study: s\nmodel: {model}\ntask: {task}\nsweep:\n  - {block}\n{more}"


def with_(more: str) -> str:
    return text(BLOCK.replace("}", f", {more}}}"))


HUGE = {
    "seeds": (with_('seeds: "0:1000000000"'), "5: sweep[0].seeds: '0:1000000000'", "at most 100,000 seeds"),
    "seeds beyond counting": (with_(f'seeds: "0:{10**25}"'), "5: sweep[0].seeds", "at most 100,000 seeds"),
    "seeds that are none": (with_('seeds: "5:2"'), "5: sweep[0].seeds: '5:2'", "START below STOP"),
    "a product": (
        with_("for: {" + ", ".join(f"a{n}: {DIGITS}" for n in range(9)) + "}"),
        "5: sweep[0].for: the axes make a0 10 × ",
        "= 1,000,000,000 cells; a study has at most 1,000,000 of one model",
    ),
    "several blocks": (
        with_('seeds: "0:90000"') + "".join(f"  - {BLOCK[:-1]}, seeds: '0:90000'}}\n" for _ in range(11)),
        "16: sweep[11]: the axes make seeds 90,000 cells, with those of the blocks before",
        "at most 1,000,000",
    ),
    "pairs": (text(task=TASK.replace("20", "1e30")), "3: task.num_pairs: 1e+30", "a whole number"),
    "more pairs": (text(task=TASK.replace("20", "99999999")), "3: task digit_sum: num_pairs", "10,000,000"),
    "values": (text(task=TASK.replace("10", "100000000")), "3: task digit_sum: ", "at most 2,000,000"),
    "vectors": (
        text(BLOCK, task="{name: random_embeds, shape: [1000000, 1000000], num_pairs: 5, seed: 0}"),
        "3: task random_embeds: shape",
        "at most 1,000,000,000 are made",
    ),
    "layers of the model": (
        text(model=MODEL.replace("num_layers: 2", "num_layers: 1000000000")),
        "5: block0: layers 'all' has 1,000,000,000 values",
        "at most 100,000",
    ),
    "a list": (
        text(BLOCK.replace("all", str(list(range(100_001))))),
        "5: sweep[0].layers: [0, 1, 2",
        "at most 100,000 values on an axis; here are 100,001",
    ),
    "values of a file": (
        text(BLOCK.replace("all", str(list(range(300_000))))),
        "5: more than 250,000 values",
        "a file of their own",
    ),
    "digits": (text(model=MODEL.replace("48", "9" * 5000)), "2: a whole number of 5,000 digits", "30"),
    "depth": (text(more="x: " + "[" * 900 + "]" * 900), "6: mappings and lists", "more than 32 deep"),
    "more depth": (text(more="x: " + "{a: " * 100_000), "6: ", "deep"),
    "fits": (
        text(more='fits: {r: {method: random_rotation, ranks: [1, 2, 3], seeds: "0:90000"}}'),
        "6: fits.r: the axes make ranks 3 × seeds 90,000 = 270,000 fits",
        "at most 10,000",
    ),
    "a text": (with_(f"for: {{a: ['{'x' * 1_000_001}', b]}}"), "5: sweep[0].for", "1,000,000 characters"),
    "a range of blanks": (
        text(BLOCK.replace("all", f"'{' ' * 300_000}'")),
        "5: sweep[0].layers",
        "all, or a",
    ),
    "a sum": (text(BLOCK.replace("s: all", f": '{'1+' * 300_000}1'")), "5: sweep[0].layer", "a layer from 0"),
    "a condition": (
        with_(f"where: '{'(' * 50_000}1{')' * 50_000}'"),
        "5: block0: where",
        "20,000 are allowed",
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_is_far_too_large_is_refused_before_it_is_made(name: str, tmp_path: Path) -> None:
    written, place, bound = HUGE[name]
    path = tmp_path / "s.yaml"
    path.write_text(written)
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StudyError) as caught:
        Planner(load_study(path), say=lambda line: None).draft(Oracle())
    assert str(caught.value).startswith(f"{path}:{place}")
    assert bound in str(caught.value) and len(str(caught.value)) < 2_000
    assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000


def test_a_file_of_a_hundred_megabytes_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    with path.open("wb") as file:
        file.write(text().encode())
        file.truncate(100_000_000)
    with pytest.raises(StudyError, match=r"s\.yaml:1: the file has 100,000,000 bytes; allowed: 64,000,000"):
        load_study(path)


def test_a_prompt_of_ten_megabytes_is_refused_with_its_column() -> None:
    (found,) = check_row({"base": "word " * 2_000_000, "source": "b", "label": "c"})
    assert found == ("base", "a text of 10,000,000 characters; at most 1,000,000 are allowed")


def test_what_is_large_and_can_be_run_is_not_refused() -> None:
    load_study(with_("for: {a: [" + ", ".join(map(str, range(9_000))) + "]}"))
    load_study(with_('seeds: "0:100000"'))
