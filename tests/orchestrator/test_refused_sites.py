"""Promise: a study that names a site which does not hold what its name promises runs no job there: the plan
says so, with file and line, where the config tells; the first loaded model does where only it can."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from running import capital_pairs

import swapyard as sy
from orchestrator.cli.models import sites
from orchestrator.store import StudyStore
from workers.errors import ModelError
from workers.model.cache import cache_folder

SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
CODE = """
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

print("code from the folder may print")


class Block(LlamaDecoderLayer):
    def forward(self, hidden_states, **given):
        attention, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **given)
        hidden = hidden_states + 0.5 * attention
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class ScaledLlama(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        for block in self.model.layers:
            block.__class__ = Block
"""
"""A Llama by its config, whose blocks halve what attention returns."""


def configured(folder: Path, tiny_folder: Path, model_type: str, **changes: Any) -> Path:
    """A folder that is enough for planning: a config and a tokeniser."""
    from transformers import AutoConfig

    config: Any = AutoConfig.for_model(model_type, **SIZES, **changes)
    config.save_pretrained(folder)
    shutil.copy(tiny_folder / "tokenizer.json", folder)
    return folder


def scaled(folder: Path, tiny_folder: Path) -> Path:
    shutil.copytree(tiny_folder, folder)
    (folder / "modeling_scaled.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_scaled.ScaledLlama"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def study(path: Path, model: Any, sweep: str, fits: str = "") -> Path:
    pairs = "".join(f"\n  - {json.dumps(pair)}" for pair in capital_pairs()[:2])
    text = f"study: {path.stem}\nmodel: {json.dumps(model)}\npairs:{pairs}\n{fits}sweep:\n{sweep}"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        sy.plan(str(path), store=path.parent / "runs")
    return str(caught.value)


def test_a_plan_names_file_and_line_of_what_the_config_tells(tmp_path: Path, tiny_folder: Path) -> None:
    model = configured(tmp_path / "granite", tiny_folder, "granite", residual_multiplier=0.25)
    sweep = "  - {site: block_output, layer: 0, position: -1}\n  - name: added\n    sites: [mlp_added,\n"
    path = study(
        tmp_path / "small.yaml",
        str(model),
        f"{sweep}            mlp_output]\n    layer: 0\n    position: -1\n",
    )
    assert path.read_text().splitlines()[9].strip() == "mlp_output]"
    assert refused(path) == (
        f"{path}:10: added: {model} (granite): mlp_output is refused: it is not what is added: the block"
        " multiplies it by its residual_multiplier, 0.25, first; take mlp_added"
    )
    good = study(
        tmp_path / "good.yaml",
        str(model),
        "  - {sites: [mlp_added, attention_added], layers: all, position: -1}",
    )
    assert sy.plan(str(good), store=tmp_path / "runs").counts.num_jobs == 12


def test_a_study_made_in_python_names_its_block(tmp_path: Path, tiny_folder: Path) -> None:
    model = configured(tmp_path / "granite", tiny_folder, "granite", residual_multiplier=0.25)
    block = sy.Block(site="attention_output", layer=0, position=-1, intervention="collect")
    made = sy.Study(study="small", model=str(model), pairs=capital_pairs()[:2], sweep=[block])
    with pytest.raises(
        ModelError, match=r"^block0: .*attention_output is refused: .*; take attention_added$"
    ):
        sy.plan(made, store=tmp_path)


def test_without_a_multiplier_nothing_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    model = configured(tmp_path / "granite", tiny_folder, "granite", residual_multiplier=1.0)
    path = study(tmp_path / "small.yaml", str(model), "  - {site: mlp_output, layers: all, position: -1}")
    assert sy.plan(str(path), store=tmp_path).counts.num_jobs == 6


def test_where_a_fit_looks_is_refused_too(tmp_path: Path, tiny_folder: Path) -> None:
    model = configured(tmp_path / "granite", tiny_folder, "granite", residual_multiplier=0.25)
    path = study(
        tmp_path / "small.yaml",
        str(model),
        "  - {site: mlp_added, layer: 0, position: -1, from: {run: average, site: mlp_output}}",
        fits="fits:\n  average: {method: mean}\n",
    )
    assert refused(path).startswith(f"{path}:7: fits.average: {model} (granite): mlp_output is refused: ")


def test_single_heads_under_a_norm_of_all_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    model = configured(tmp_path / "olmo2", tiny_folder, "olmo2")
    swap = "  - {{site: {}, layers: all, {}position: -1{}}}"
    heads = study(tmp_path / "heads.yaml", str(model), swap.format("query_output", "heads: all, ", ""))
    assert refused(heads) == (
        f"{heads}:7: block0: {model} (olmo2): single heads of query_output are refused: a norm over all heads"
        " follows, so that a change of one head changes the others too; name heads at query_norm_output, or"
        " leave 'head' out: the whole site may be changed"
    )
    lines = [
        swap.format("query_output", "", ""),
        swap.format("key_norm_output", "heads: all, ", ""),
        swap.format("query_output", "heads: all, ", ", intervention: collect"),
    ]
    good = study(tmp_path / "good.yaml", str(model), "\n".join(lines))
    assert sy.plan(str(good), store=tmp_path / "runs").counts.num_jobs == 2 * 3 * (1 + 2 + 4)


def test_what_only_the_loaded_model_tells_ends_the_run_before_any_job(
    tmp_path: Path, tiny_folder: Path
) -> None:
    model = scaled(tmp_path / "scaled", tiny_folder)
    spec = str(model)
    sweep = "  - {{sites: [{}], layers: all, position: -1}}"
    path = study(tmp_path / "bad.yaml", spec, sweep.format("mlp_output, attention_output"))
    with pytest.raises(ModelError) as caught:
        sy.run(str(path), store=tmp_path, executor="inline", quiet=True, trust_remote_code=True)
    assert str(caught.value) == (
        f"{model} (llama): attention_output is refused: the block adds 0.5 times attention_output; no named"
        " site has it; what the module itself holds is model.layers.$layer.self_attn. No job of"
        f" {model} is run"
    )
    assert StudyStore(tmp_path / "bad").open_reader().state.live == {}
    path = study(tmp_path / "good.yaml", spec, sweep.format("mlp_output, mlp_added"))
    results = sy.run(str(path), store=tmp_path, executor="inline", quiet=True, trust_remote_code=True)
    by_site = "SELECT site, list(label_logit ORDER BY base, layer) FROM results GROUP BY site ORDER BY site"
    (_, added), (_, output) = results.sql(by_site).fetchall()
    assert added == output and len(set(added)) == 6


def test_the_command_shows_which_identities_hold(tmp_path: Path, tiny_folder: Path) -> None:
    model = scaled(tmp_path / "granite", tiny_folder)
    configured(model, tiny_folder, "granite", residual_multiplier=0.25)
    from transformers import AutoConfig, AutoModelForCausalLM

    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).save_pretrained(model)
    alone = CliRunner().invoke(sites, [str(model), "--no-load"])
    assert alone.exit_code == 0 and alone.stderr == ""
    assert row_of("mlp_output", alone.stdout)[3] == "refused"
    first, again = (CliRunner().invoke(sites, [str(model)]) for _ in range(2))
    assert first.stderr == f"loading {model}, to try what its sites hold\n" and again.stderr == ""
    assert first.stdout == again.stdout
    assert len(list((cache_folder() / "identities").iterdir())) == 1
    shown = {site: row_of(site, first.stdout) for site in ("attention_output", "mlp_added", "key_output")}
    assert shown["attention_output"][3] == "heads sum, NOT added (off by 75%)"
    assert shown["mlp_added"][3] == "added" and shown["key_output"][3:5] == ["2", "heads apart"]
    assert "mlp_output is refused: it is not what is added" in first.stdout
    assert "in blocks 0, 1, 2" in first.stdout


def row_of(site: str, shown: str) -> list[str]:
    (line,) = [line for line in shown.splitlines() if line.startswith(f"{site} ") and "model.layers" in line]
    return re.split(r" {2,}", line)
