"""Changes of a model's folder of which nobody would think: keys of its config, words of its tokeniser,
headers and bytes of its weights, files that are there or not."""

__all__ = ["change"]

import json
import random
import struct
from pathlib import Path
from typing import Any

_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 10**6, 10**12, 2**63, 10**40, 1.5, -0.0, 1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        "2",
        "foo",
        "silu",
        "\ud800",
        "x" * 10_000,
        [],
        [1],
        {},
        {"a": 1},
        [[]],
    ),
    *({"rope_type": "foo"}, {"rope_type": "yarn"}, {"type": "linear", "factor": "x"}, {"rope_theta": -1}),
    *({"quant_method": "awq"}, ["LlamaForSequenceClassification"], "float8_e4m3fn", "t5", "mamba", "bert"),
)
_MORE_KEYS = (
    *(
        "quantization_config",
        "text_config",
        "auto_map",
        "is_encoder_decoder",
        "rope_scaling",
        "rope_parameters",
    ),
    *(
        "head_dim",
        "num_key_value_heads",
        "hidden_act",
        "tie_word_embeddings",
        "torch_dtype",
        "dtype",
        "pad_token_id",
    ),
    *(
        "residual_multiplier",
        "layer_types",
        "sliding_window",
        "multi_query",
        "attn_config",
        "n_inner",
        "alibi",
    ),
    *(
        "num_local_experts",
        "model_type",
        "architectures",
        "max_position_embeddings",
        "vocab_size",
        "bos_token_id",
    ),
)
_INDEX = "model.safetensors.index.json"


def change(draw: random.Random, folder: Path) -> str:
    """Change one thing in a folder; in words, what."""
    chosen = draw.choice(
        (_config, _config, _config, _config, _tokenizer, _tokenizer, _header, _header, _files)
    )
    try:
        return chosen(draw, folder)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
        struct.error,
    ):
        return "nothing more"  # An earlier change left nothing to be changed.


def _config(draw: random.Random, folder: Path) -> str:
    file = folder / "config.json"
    if draw.random() < 0.1:
        return _bytes(draw, file)
    config = json.loads(file.read_text())
    key = draw.choice((*config, *config, *_MORE_KEYS))
    if draw.random() < 0.15:
        config.pop(key, None)
    else:
        config[key] = draw.choice(_ODD)
    file.write_text(json.dumps(config))
    return f"{key}={config.get(key, 'nothing')!r:.40}"


def _tokenizer(draw: random.Random, folder: Path) -> str:
    file = folder / "tokenizer.json"
    if draw.random() < 0.25:
        return _bytes(draw, file)
    content = json.loads(file.read_text())
    path: list[Any] = []
    at: Any = content
    for _ in range(draw.choice((1, 2, 2, 3, 4))):
        if not isinstance(at, dict | list) or not at:
            break
        key = draw.choice(list(at)) if isinstance(at, dict) else draw.randrange(len(at))
        path.append(key)
        parent, at = at, at[key]
    if draw.random() < 0.3:
        del parent[path[-1]]
    else:
        parent[path[-1]] = draw.choice(_ODD)
    file.write_text(json.dumps(content))
    return f"tokenizer {'.'.join(map(str, path))[:60]}"


def _header(draw: random.Random, folder: Path) -> str:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    if draw.random() < 0.25:
        lie = draw.choice((0, 1, length - 1, length + 1, 10**7, 2**40, 2**64 - 1))
        file.write_bytes(struct.pack("<Q", lie) + data[8:])
        return f"header of {lie} bytes"
    if draw.random() < 0.25:
        return _bytes(draw, file)
    header = json.loads(data[8 : 8 + length])
    name = draw.choice(list(header))
    match draw.randrange(5):
        case 0:
            del header[name]
        case 1:
            header[draw.choice(("", "score.weight", "model.layers.9.x", name + "x", "\u00e9"))] = header.pop(
                name
            )
        case 2:
            header[name] = draw.choice(_ODD)
        case _:
            key = draw.choice(("dtype", "shape", "data_offsets"))
            odd = (
                "F8_E4M3",
                "I32",
                "F33",
                [0],
                [-1],
                [2**62, 2**62],
                [1] * 100,
                [1, "a"],
                [0, 10**15],
                [9, 3],
            )
            header[name][key] = draw.choice((*odd, *_ODD))
    written = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(written)) + written + data[8 + length :])
    return f"header: {name[-40:]} {header.get(name, 'gone')!r:.60}"


def _files(draw: random.Random, folder: Path) -> str:
    file = folder / draw.choice(
        ("config.json", "tokenizer.json", "model.safetensors", "generation_config.json")
    )
    match draw.randrange(6):
        case 0:
            file.unlink()
            return f"no {file.name}"
        case 1:
            file.unlink()
            file.mkdir()
            return f"{file.name} is a folder"
        case 2:
            (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
            return "pickled only"
        case 3:
            odd = draw.choice(({"weight_map": {"a": "../x.safetensors"}}, {"weight_map": {"a": "b"}}, *_ODD))
            (folder / _INDEX).write_text(json.dumps(odd))
            (folder / "model.safetensors").rename(folder / "b")
            return f"index {odd!r:.40}"
        case 4:
            (folder / "generation_config.json").write_text(draw.choice(("", "[]", '{"max_length": "x"}')))
            return "generation config"
    (folder / "tokenizer_config.json").write_text(draw.choice(("", "[]", '{"tokenizer_class": 3}')))
    return "tokenizer config"


def _bytes(draw: random.Random, file: Path) -> str:
    data = bytearray(file.read_bytes())
    match draw.randrange(5):
        case 0:
            del data[draw.randrange(len(data)) :]
        case 1:
            for _ in range(draw.choice((1, 3, 30))):
                data[draw.randrange(min(len(data), 4000))] = draw.randrange(256)
        case 2:
            data = bytearray(b"[" * 200_000)
        case 3:
            data = bytearray(draw.choice((b"", b"\0", b"{}", b"null", b"3", b"\xff\xfe{}", b'{"a": 1e999}')))
        case _:
            data = bytearray(b'{"a": [' + b"[]," * 300_000 + b"[]]}")
    file.write_bytes(bytes(data))
    return f"bytes of {file.name}"
