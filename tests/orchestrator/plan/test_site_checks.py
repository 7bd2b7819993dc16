"""Promise: places that a model does not have, or has in another width, are refused while planning."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workers.errors import ModelError, StudyError, SwapyardError
from workers.model.cache import cache_folder

from .world import planned, row, study

ROWS = [row("Spain", "Italy"), row("Peru", "Spain")]


def plan(folder: Path, **unit: Any) -> int:
    layer = {} if "." in unit["site"] else {"layer": 0}
    return planned(study(folder, ROWS, json.dumps([{**layer, "position": -1, **unit}]))).num_jobs


def refused(folder: Path, **unit: Any) -> str:
    with pytest.raises(SwapyardError) as caught:
        plan(folder, **unit)
    return str(caught.value).replace(str(folder), "tiny")


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        (
            {"site": "mlp_activation", "subspace": "0:49"},
            "0:49 reaches beyond mlp_activation of tiny, which has 48",
        ),
        ({"site": "key_output", "subspace": "8:17"}, "8:17 reaches beyond key_output of tiny, which has 16"),
        (
            {"site": "attention_value_output", "head": 1, "subspace": "0:9"},
            "0:9 reaches beyond a head of attention_value_output of tiny, which has 8 dimensions",
        ),
    ],
)
def test_dimensions_that_a_site_or_a_head_lacks(tiny_folder: Path, unit: dict[str, Any], text: str) -> None:
    assert text in refused(tiny_folder, **unit)


def test_values_of_another_width(tiny_folder: Path) -> None:
    taken = {"run": "source", "site": "mlp_activation"}
    assert refused(tiny_folder, site="block_output", **{"from": taken}) == (
        "block0: a value of 48 dimensions, from mlp_activation, for the 32 of block_output of tiny; take it"
        " where there are as many"
    )
    assert plan(tiny_folder, site="block_output", subspace="0:8", **{"from": taken}) == 2


@pytest.mark.parametrize(
    ("site", "why"),
    [
        *(
            (site, "that is what a module is given")
            for site in (
                "block_input",
                "attention_input",
                "mlp_input",
                "mlp_activation",
                "attention_value_output",
            )
        ),
        ("key_output", "it is 16 wide, made from 32"),
        ("model.layers.0.mlp:input", "that is what a module is given"),
    ],
)
def test_only_what_a_module_returns_can_be_skipped(tiny_folder: Path, site: str, why: str) -> None:
    assert refused(tiny_folder, site=site, intervention="skip") == (
        f"block0: skip at {site} of tiny: {why}; skip what a module returns, as wide as what it is given:"
        " query_output, attention_output, mlp_output, block_output, or a module path without ':input'"
    )


@pytest.mark.parametrize("site", ["attention_output", "mlp_output", "block_output"])
def test_outputs_can_be_skipped(tiny_folder: Path, site: str) -> None:
    assert plan(tiny_folder, site=site, intervention="skip") == 2


def test_a_module_that_is_not_there_is_named_with_those_near_it(tiny_folder: Path) -> None:
    assert plan(tiny_folder, site="model.layers.2.mlp.act_fn:input") == 2
    # Asked once: from now on nobody has to make the model.
    (kept,) = (cache_folder() / "modules").iterdir()
    assert "model.layers.2.mlp" in json.loads(kept.read_text())
    text = refused(tiny_folder, site="model.layers.9.mlp:input")
    assert text.startswith("block0: tiny has no module 'model.layers.9.mlp'; near it are model.layers.")
    assert text.count("mlp") == 4


def test_all_paths_that_are_not_there_are_one_message(tiny_folder: Path) -> None:
    sweep = [{"site": "model.layers.$layer.mpl", "layers": "all", "position": -1}]
    with pytest.raises(ModelError, match=r"no module 'model.layers.0.mpl' \(nor those of 2 more sites"):
        planned(study(tiny_folder, ROWS, json.dumps(sweep)))


def test_finding_the_modules_loads_no_torch_here(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "paths.yaml"
    path.write_text(study(tiny_folder, ROWS, '[{site: "model.layers.0.mlp", position: -1}]').to_yaml())
    asked = (
        "import sys; from orchestrator.api import plan;"
        f" plan({str(path)!r}, store={str(tmp_path)!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_a_built_in_model_has_modules_too(tmp_path: Path) -> None:
    options = {"width": 4, "num_layers": 1, "outputs": 2, "seed": 0}
    rows = [{"base_embeds": [[0.5] * 4], "source_embeds": [[1.0] * 4], "label": 1}]
    model = {"ref": "zoo:mlp", **options}
    good, bad = (f'[{{site: "layers.{n}.linear", position: 0}}]' for n in (0, 1))
    assert planned(study(tmp_path, rows, good, model=model)).num_jobs == 1
    with pytest.raises(
        ModelError, match=r"zoo:mlp has no module 'layers.1.linear'; near it are layers.0.linear"
    ):
        planned(study(tmp_path, rows, bad, model=model))


def test_vectors_of_another_width_than_the_model_takes(tmp_path: Path) -> None:
    model = {"ref": "zoo:gru", "width": 4, "num_layers": 1, "outputs": 2, "seed": 0}
    rows = [{"base_embeds": [[0.5] * 3], "source_embeds": [[1.0] * 3], "label": 1}]
    sweep = "[{site: cell_output, layer: 0, position: 0}]"
    with pytest.raises(StudyError, match=r"base: vectors of 3 numbers: zoo:gru takes 4 for each token"):
        planned(study(tmp_path, rows, sweep, model=model))
