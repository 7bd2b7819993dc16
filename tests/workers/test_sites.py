"""Promise: the words for places are known without torch, and a wrong one is answered with the right ones."""

import subprocess
import sys
from pathlib import Path

import pytest

from workers.errors import ModelError
from workers.model.facts import ModelFacts
from workers.model.sites import SITES, check_site, is_module_path, num_heads, order, split_path

FACTS = ModelFacts(
    ref="m",
    revision="0",
    dtype="float32",
    folder=Path(),
    model_type="llama",
    num_layers=4,
    num_heads=9,
    num_kv_heads=3,
    width=576,
    vocab_size=100,
    num_parameters=0,
)


def test_importing_the_words_and_the_tables_loads_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'ray'} & sys.modules.keys()"
    code = f"import workers.model.families, workers.model.sites, sys; assert not {heavy}"
    root = Path(sys.modules["workers.model.sites"].__file__ or "").parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_a_misspelt_site_is_answered_with_all_sites_and_the_nearest() -> None:
    with pytest.raises(
        ModelError, match=r"no site 'mlp_outptu'; sites are block_input, .*did you mean 'mlp_output'"
    ):
        check_site("mlp_outptu")


@pytest.mark.parametrize("site", [*SITES, "model.layers.3.mlp", "lm_head:input"])
def test_names_and_module_paths_are_accepted(site: str) -> None:
    check_site(site)
    assert is_module_path(site) is (site not in SITES)


def test_a_module_path_means_its_output_unless_it_says_input() -> None:
    assert split_path("a.b") == split_path("a.b:output") == ("a.b", "output")
    assert split_path("a.b:input") == ("a.b", "input")
    with pytest.raises(ModelError, match="ends in 'middle'; a module path ends in ':input' or ':output'"):
        check_site("a.b:middle")


def test_queries_and_mixed_values_have_the_heads_of_queries_and_keys_and_values_their_own() -> None:
    heads = {site: num_heads(site, FACTS) for site in (*SITES, "a.b")}
    assert {site: count for site, count in heads.items() if count} == {
        "query_output": 9,
        "attention_value_output": 9,
        "key_output": 3,
        "value_output": 3,
        "query_norm_output": 9,
        "key_norm_output": 3,
    }


def test_places_sort_by_when_they_are_computed() -> None:
    places = [("block_output", 0), ("a.b", None), ("block_input", 1), ("mlp_output", 0), ("query_output", 0)]
    assert sorted(places, key=lambda place: order(*place)) == [
        ("a.b", None),
        ("query_output", 0),
        ("mlp_output", 0),
        ("block_output", 0),
        ("block_input", 1),
    ]
    assert order("update_gate_output", 1) < order("cell_output", 1) < order("cell_input", 2)
