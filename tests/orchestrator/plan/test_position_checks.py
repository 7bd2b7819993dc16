"""Promise: what the pairs or the model cannot have is refused while planning, in words that name the block,
how many pairs are concerned and one of them, and what to write instead."""

import json
from pathlib import Path
from typing import Any

import pytest

from workers.errors import ModelError, StudyError

from .world import Row, planned, row, study

FIVE = row("Spain", "Italy")
THREE = {**row("Spain", "Italy"), "base": "The capital is", "source": "The capital is"}
ONE_TOKEN = {"span.s": "Spain", "source.span.s": "Italy"}
UNEVEN = {"span.s": "Spain", "source.span.s": "of Italy"}


def refused(folder: Path, rows: list[Row], sweep: str) -> str:
    with pytest.raises(StudyError) as caught:
        planned(study(folder, rows, sweep))
    return str(caught.value)


def at(position: Any, **others: Any) -> str:
    """A block at a position; with its other keys as a file has them."""
    return json.dumps({"site": "mlp_output", "layer": 0, "position": position, **others})


def test_a_position_that_some_pairs_lack(tiny_folder: Path) -> None:
    rows = [FIVE, THREE, row("Peru", "Spain")]
    assert refused(tiny_folder, rows, f"[{at(4)}]") == (
        "block0: position 4 does not exist in 1 of 3 pairs, such as pair 1 whose base has 3 tokens and the"
        " spans none; take another position, or set missing: skip to leave such pairs out"
    )


def test_missing_skip_leaves_such_pairs_out(tiny_folder: Path) -> None:
    plan = planned(study(tiny_folder, [FIVE, THREE], f"[{at(4, missing='skip')}, {at(0)}]"))
    assert plan.num_jobs == 3


def test_a_position_that_no_pair_has_is_refused_even_so(tiny_folder: Path) -> None:
    assert refused(tiny_folder, [FIVE, THREE], f"[{at(9, missing='skip')}, {at(0)}]") == (
        "block0: position 9 does not exist in 2 of 2 pairs, such as pair 0 whose base has 5 tokens and the"
        " spans none; take another position"
    )


def test_pairs_that_the_block_is_not_about_do_not_count(tiny_folder: Path) -> None:
    rows = [{**FIVE, "split": "train"}, {**THREE, "split": "test"}]
    only_test = at(4, missing="skip", where="split = 'test'")
    assert "position 4 does not exist in 1 of 1 pair, such as pair 1" in refused(
        tiny_folder, rows, f"[{at(0)}, {only_test}]"
    )


def test_a_span_that_the_source_lacks(tiny_folder: Path) -> None:
    rows = [{**FIVE, "span.s": "Spain", "source.span.t": "Italy"}]
    assert (
        "position 's.last' does not exist in 1 of 1 pair, such as pair 0 whose source has 5 tokens and the"
        " spans 't'; take another position"
    ) in refused(tiny_folder, rows, f"[{at('s.last')}]")


def test_a_run_that_some_pairs_lack(tiny_folder: Path) -> None:
    rows = [FIVE, {"base": "The capital is"}, row("Peru", "Spain")]
    assert refused(tiny_folder, rows, f"[{at(0)}]") == (
        "block0: run 'source' does not exist in 1 of 3 pairs, such as pair 1, which has only base; take"
        " another run, or set missing: skip to leave such pairs out"
    )
    assert planned(study(tiny_folder, rows, f"[{at(0, missing='skip')}]")).num_jobs == 2


def test_a_run_that_no_pair_has_is_refused_even_so(tiny_folder: Path) -> None:
    sweep = f"[{at(0, missing='skip', **{'from': 'source_2'})}]"
    assert refused(tiny_folder, [FIVE], sweep) == (
        "block0: run 'source_2' does not exist in 1 of 1 pair, such as pair 0, which has only base, source;"
        " take another run"
    )


def test_whole_spans_of_unequal_length(tiny_folder: Path) -> None:
    rows = [
        {**FIVE, **ONE_TOKEN},
        {**FIVE, **UNEVEN},
        {**row("Peru", "Italy"), "span.s": "Peru", "source.span.s": "of Italy is"},
    ]
    assert refused(tiny_folder, rows, f"[{at('s', name='swap')}]") == (
        "swap: position s fails in 2 of 3 pairs, such as pair 1: 1 token in the base and 2 in source; spans"
        " of unequal length need .first, .last or .mean"
    )


@pytest.mark.parametrize(
    "sweep",
    [
        at("s.first"),
        at("s.last"),
        at("s.mean"),
        at("s", **{"from": "base"}),
        at("s", **{"from": "zero"}),
        at("s", **{"from": {"run": "source", "position": "s.mean"}}),
        at(["s", 4], **{"from": {"run": "source", "position": "s"}}),
    ],
)
def test_spans_of_unequal_length_that_fit_nevertheless(tiny_folder: Path, sweep: str) -> None:
    assert planned(study(tiny_folder, [{**FIVE, **UNEVEN}], f"[{sweep}]")).num_jobs == 1


def test_a_token_beyond_the_end_of_a_span(tiny_folder: Path) -> None:
    rows = [{**FIVE, **ONE_TOKEN}, {**FIVE, "span.s": "of Spain", "source.span.s": "of Italy"}]
    assert refused(tiny_folder, rows, f"[{at('s[1]')}]") == (
        "block0: position s[1] fails in 1 of 2 pairs, such as pair 0: position 's[1]': the span 's' has only"
        " 1 tokens; take another token, such as .first or .last"
    )


def test_a_read_beyond_the_end_of_a_span(tiny_folder: Path) -> None:
    assert "block0: position s[1] fails in 1 of 1 pair" in refused(
        tiny_folder, [{**FIVE, **ONE_TOKEN}], f"[{at(0, read='s[1]')}]"
    )


@pytest.mark.parametrize(
    "site", ["block_input", "attention_input", "attention_output", "mlp_input", "mlp_output", "block_output"]
)
def test_dimensions_beyond_the_residual_stream(tiny_folder: Path, site: str) -> None:
    sweep = f'[{{site: {site}, layer: 0, position: 0, subspaces: ["0:32", "31:33"]}}]'
    assert refused(tiny_folder, [FIVE], sweep) == (
        f"block0: subspace 31:33 reaches beyond {site} of {tiny_folder}, which has 32 dimensions; end it at"
        " 32 or before"
    )


def test_the_width_of_a_module_is_the_loaded_models_to_tell(tiny_folder: Path) -> None:
    sweep = '[{site: "model.layers.0.mlp", position: 0, subspace: "0:99"}]'
    assert planned(study(tiny_folder, [FIVE], sweep)).num_jobs == 1


def test_a_named_site_that_the_family_lacks(tiny_folder: Path) -> None:
    sweep = json.dumps([{"site": "mlp_post_norm_output", "layer": 0, "position": 0}])
    with pytest.raises(ModelError, match=r"block0: .* \(llama\) has no site 'mlp_post_norm_output'; it has "):
        planned(study(tiny_folder, [FIVE], sweep))
