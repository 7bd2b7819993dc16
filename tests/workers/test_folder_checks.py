"""Promise: of a model's folder whatever its config and the headers of its weights tell is told before a
weight is read: in one message with the folder, the key or tensor, and what to do; and sound folders pass."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from workers.errors import ModelError
from workers.model.references import resolve
from workers.model.spec import ModelSpec

Change = Callable[[Path], None]


def config(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def weights(edit: Callable[[dict[str, Any]], object]) -> Change:
    def change(folder: Path) -> None:
        tensors = dict(load_file(folder / "model.safetensors"))
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def raw(edit: Callable[[bytes], bytes], name: str = "model.safetensors") -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(edit((folder / name).read_bytes()))

    return change


def shards(edit: Callable[[Path, dict[str, str]], object]) -> Change:
    """The weights in two files, with an index."""

    def change(folder: Path) -> None:
        tensors = dict(load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").unlink()
        where = {name: f"model-{1 + at % 2}.safetensors" for at, name in enumerate(tensors)}
        for file in set(where.values()):
            save_file({name: tensors[name] for name in tensors if where[name] == file}, folder / file)
        edit(folder, where)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))

    return change


def without(*names: str) -> Change:
    return weights(lambda tensors: [tensors.pop(name) for name in names])


DOWN = "model.layers.1.mlp.down_proj.weight"


def resolved(folder: Path, tmp_path: Path, change: Change, **spec: Any) -> str:
    """What is said of a copy of a folder that is changed; nothing where it passes."""
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    change(copy)
    try:
        resolve(ModelSpec(ref=str(copy), **spec))
    except ModelError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            config(num_hidden_layers=10**6),
            "num_hidden_layers is 1000000; allowed: a whole number from 1 to 10,000",
        ),
        (config(num_hidden_layers=7), "num_hidden_layers is 7, but they have"),
        (config(hidden_size=-1), "hidden_size is -1; allowed: a whole number from 1"),
        (config(vocab_size="32"), "vocab_size is '32'; allowed: a whole number"),
        (config(vocab_size=32.0), "vocab_size is 32.0; allowed: a whole number"),
        (
            config(num_attention_heads=5, head_dim=None),
            "num_attention_heads 5 does not divide hidden_size 32",
        ),
        (config(num_key_value_heads=3), "num_key_value_heads 3 does not divide num_attention_heads 4"),
        (config(hidden_act="sillu"), "hidden_act is 'sillu'; allowed: gelu, "),
        (config(hidden_act="sillu"), "did you mean 'silu'?"),
        (
            config(rope_parameters={"rope_type": "foo"}),
            "rope_parameters.rope_type is 'foo'; allowed: default, ",
        ),
        (
            config(quantization_config={"quant_method": "gptq"}),
            "quantization_config is there (quant_method 'gptq')",
        ),
        (
            config(model_type="llamma"),
            "'llamma' are not supported: the transformers library that is installed has no",
        ),
        (config(model_type=None), "it has no model_type"),
        (config(architectures=["LlamaForSequenceClassification"]), "its head predicts no token"),
        (config(text_config=[1]), "text_config is [1]; allowed: a mapping"),
        (without("lm_head.weight"), "1 missing in the checkpoint: lm_head.weight; give a checkpoint"),
        (without(DOWN), f"1 missing in the checkpoint: {DOWN};"),
        (without("model.norm.weight"), "the last norm is missing in the checkpoint"),
        (without("model.embed_tokens.weight"), "the embedding is missing in the checkpoint"),
        (
            without("model.layers.1.input_layernorm.weight"),
            "1 missing in the checkpoint: model.layers.1.input_layernorm.weight",
        ),
        (
            weights(lambda t: t.update({DOWN: np.zeros((3, 4), np.float32)})),
            f"1 mismatched in shape: {DOWN} ([3, 4]",
        ),
        (config(intermediate_size=64), "mismatched in shape: model.layers.0.mlp.down_proj.weight"),
        (config(vocab_size=99), "2 mismatched in shape: "),
        (weights(lambda t: t.update({"foo.bar": np.zeros(2, np.float32)})), "1 unexpected, without a place"),
        (
            weights(lambda t: t.update({"score.weight": t.pop("lm_head.weight")})),
            "1 unexpected, of the head of another class: score.weight",
        ),
        (
            weights(lambda t: t.update({f"{DOWN[:-7]}.qweight": np.zeros(2, np.int32)})),
            "of a quantised model",
        ),
        (raw(lambda data: data[:-1]), "it is cut off: its tensors end at byte"),
        (
            raw(lambda data: struct.pack("<Q", 1 << 60) + data[8:]),
            "its header is said to be 1,152,921,504,606",
        ),
        (raw(lambda data: struct.pack("<Q", 9) + data[8:]), "its header is no JSON"),
        (raw(lambda data: b""), "it is only 0 bytes long; fetch or copy it again, whole"),
        (raw(lambda data: data.replace(b'"F32"', b'"F64"', 1)), "is F64 of shape"),
        (raw(lambda data: b"", "config.json"), "config.json: Expecting value"),
        (raw(lambda data: b"[" * 99_999, "config.json"), "maximum recursion depth"),
        (raw(lambda data: b"[]", "config.json"), "holds no JSON object"),
        (
            shards(lambda folder, _: (folder / "model-2.safetensors").unlink()),
            "names 1 file that is not there",
        ),
        (
            shards(lambda _, where: where.update(x="../x.safetensors")),
            "'../x.safetensors', which leads out of the folder",
        ),
        (
            shards(lambda _, where: where.update(x="model-1.safetensors")),
            "1 tensor that is not in their files: x",
        ),
        (shards(lambda _, where: where.clear()), "has no weight_map"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "adapter_model.safetensors"),
            "an adapter",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    tiny_folder: Path, tmp_path: Path, change: Change, said: str
) -> None:
    text = resolved(tiny_folder, tmp_path, change)
    assert said in text
    assert str(tmp_path / "model") in text and "\n" not in text


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: None,
        shards(lambda folder, where: None),
        lambda folder: (folder / "model.safetensors").unlink(),
        weights(
            lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32)})
        ),
        config(architectures=["LlamaModel"]),
    ],
)
def test_a_sound_folder_passes(tiny_folder: Path, tmp_path: Path, change: Change) -> None:
    assert resolved(tiny_folder, tmp_path, change) == ""


@pytest.mark.parametrize(
    "change", [without("lm_head.weight"), config(architectures=["LlamaForTokenClassification"])]
)
def test_what_is_missing_may_be_drawn_on_purpose(tiny_folder: Path, tmp_path: Path, change: Change) -> None:
    assert resolved(tiny_folder, tmp_path, change, missing_weights="initialise", seed=0) == ""


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        *((kind, "an encoder with a decoder") for kind in ("t5", "bart", "whisper")),
        *((kind, "a recurrent model without attention heads") for kind in ("mamba", "rwkv")),
        ("vit", "not a causal language model of the transformers library"),
    ],
)
def test_a_type_that_is_not_supported_is_named_so_and_not_sent_to_be_saved_again(
    tmp_path: Path, kind: str, why: str
) -> None:
    is_both = {"is_encoder_decoder": True} if kind == "t5" else {}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "vocab_size": 9, **is_both}))
    with pytest.raises(ModelError) as caught:
        resolve(ModelSpec(ref=str(tmp_path)))
    text = str(caught.value)
    assert f"models of type {kind!r} are not supported: {why}; supported are causal language models" in text
    assert "with named sites cohere, gemma" in text and "save the model again" not in text
