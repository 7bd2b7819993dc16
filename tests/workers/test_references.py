"""Promise: a model's name leads to its shape and to a revision that depends on what the model is, never on
where it lies; what cannot be found says what to do. Nothing here needs torch or the network."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workers.errors import ModelError, NotYetError
from workers.model.cache import cache_folder, clear, content_hash, size_bytes
from workers.model.fetch import SOURCES
from workers.model.references import ALIASES, find, has_weights, resolve
from workers.vocabulary import ModelSpec

pytestmark = pytest.mark.versions

NO_TENSORS = b"\x02\0\0\0\0\0\0\0{}"
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
GPT2 = {
    "model_type": "gpt2",
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "n_positions": 1024,
    "vocab_size": 50257,
}
NEOX = {
    "model_type": "gpt_neox",
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "hidden_size": 128,
    "intermediate_size": 512,
    "vocab_size": 50304,
    "tie_word_embeddings": False,
}
FALCON = {
    "model_type": "falcon",
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "num_kv_heads": 71,
    "multi_query": True,
    "hidden_size": 4544,
    "vocab_size": 65024,
}
MPT = {"model_type": "mpt", "n_layers": 32, "n_heads": 32, "d_model": 4096, "vocab_size": 50432}
MIXTRAL = {
    "model_type": "mixtral",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_local_experts": 8,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SWAPYARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def model(folder: Path, config: dict[str, object] = LLAMA) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


# Shapes. The published sizes are: SmolLM2 134.5 M, GPT-2 124.4 M, Pythia-14m 14.1 M, Falcon 6.92 G,
# MPT 6.65 G, Mixtral 46.7 G.


@pytest.mark.parametrize(
    ("config", "layers", "heads", "kv_heads", "width", "published"),
    [
        (LLAMA, 30, 9, 3, 576, 134.515e6),
        (GPT2, 12, 12, 12, 768, 124.440e6),
        (NEOX, 6, 8, 8, 128, 14.068e6),
        (FALCON, 32, 71, 1, 4544, 6.922e9),
        (MPT, 32, 32, 32, 4096, 6.649e9),
        (MIXTRAL, 32, 32, 8, 4096, 46.703e9),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_the_shape_is_read_under_every_familys_names(
    tmp_path: Path,
    config: dict[str, object],
    layers: int,
    heads: int,
    kv_heads: int,
    width: int,
    published: float,
) -> None:
    facts = resolve(ModelSpec(ref=str(model(tmp_path / "m", config))))
    assert (facts.num_layers, facts.num_heads, facts.num_kv_heads, facts.width) == (
        layers,
        heads,
        kv_heads,
        width,
    )
    assert facts.num_parameters == pytest.approx(published, rel=0.01)
    assert (facts.model_type, facts.vocab_size) == (config["model_type"], config["vocab_size"])


def test_the_shape_of_a_nested_text_model_is_found(tmp_path: Path) -> None:
    outer: dict[str, object] = {
        "model_type": "gemma3",
        "text_config": LLAMA,
        "vision_config": {"hidden_size": 7},
    }
    facts = resolve(ModelSpec(ref=str(model(tmp_path / "m", outer)), dtype="bfloat16"))
    assert (facts.model_type, facts.width, facts.dtype) == ("gemma3", 576, "bfloat16")


def test_one_shared_key_value_head_of_gpt_bigcode_is_seen(tmp_path: Path) -> None:
    config = GPT2 | {"model_type": "gpt_bigcode", "multi_query": True}
    assert resolve(ModelSpec(ref=str(model(tmp_path / "m", config)))).num_kv_heads == 1


def test_a_shape_that_is_missing_is_named(tmp_path: Path) -> None:
    config = {key: value for key, value in LLAMA.items() if key != "num_hidden_layers"}
    with pytest.raises(ModelError, match=r"config\.json gives none of num_hidden_layers, n_layer"):
        resolve(ModelSpec(ref=str(model(tmp_path / "m", config))))


@pytest.mark.parametrize(
    ("content", "said"), [("{", "cannot read .*config.json"), ("[]", "holds no JSON object")]
)
def test_a_damaged_config_is_named(tmp_path: Path, content: str, said: str) -> None:
    (model(tmp_path / "m") / "config.json").write_text(content, "utf-8")
    with pytest.raises(ModelError, match=said):
        resolve(ModelSpec(ref=str(tmp_path / "m")))


# Revisions


def test_the_revision_follows_the_contents_and_not_the_path(tmp_path: Path) -> None:
    here, there = model(tmp_path / "here"), model(tmp_path / "there")
    first = resolve(ModelSpec(ref=str(here))).revision
    assert resolve(ModelSpec(ref=str(there))).revision == first and len(first) == 64
    (there / "model.safetensors").write_bytes(NO_TENSORS)
    assert resolve(ModelSpec(ref=str(there))).revision != first


def test_what_a_model_is_not_loaded_from_does_not_change_its_revision(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    first = content_hash(folder)
    (folder / "README.md").touch()
    (folder / ".hidden.json").touch()
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "model.safetensors").touch()
    assert content_hash(folder) == first


def test_a_changed_file_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    weights = folder / "model.safetensors"
    weights.write_bytes(b"one")
    first, then = content_hash(folder), weights.stat()
    weights.write_bytes(b"two")
    os.utime(weights, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert weights.stat().st_mtime_ns == then.st_mtime_ns
    assert content_hash(folder) != first


def test_the_files_are_read_only_once(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    first = content_hash(folder)
    (memory,) = (cache_folder() / "hashes").iterdir()
    memory.write_text(memory.read_text("utf-8").replace(first, "remembered"), "utf-8")
    assert content_hash(folder) == "remembered"


@pytest.mark.parametrize("damage", ["", "[]", '{"files": 1}'])
def test_a_damaged_memory_is_computed_again(tmp_path: Path, damage: str) -> None:
    folder = model(tmp_path / "m")
    first = content_hash(folder)
    (memory,) = (cache_folder() / "hashes").iterdir()
    memory.write_text(damage, "utf-8")
    assert content_hash(folder) == first


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model(tmp_path / "m")
    first = content_hash(folder)
    (tmp_path / "file").touch()
    monkeypatch.setenv("SWAPYARD_CACHE", str(tmp_path / "file"))
    assert content_hash(folder) == first


def test_a_pinned_revision_must_be_what_the_files_hash_to(tmp_path: Path) -> None:
    folder = str(model(tmp_path / "m"))
    revision = resolve(ModelSpec(ref=folder)).revision
    assert resolve(ModelSpec(ref=folder, revision=revision[:12])).revision == revision
    with pytest.raises(ModelError, match=f"pins revision abc, but the files in .* hash to {revision[:12]}"):
        resolve(ModelSpec(ref=folder, revision="abc"))


# Where models are


def test_artifacts_are_not_there_yet() -> None:
    with pytest.raises(
        NotYetError, match=r"model 'artifact:iit': .* not there yet; use a folder or a hub id"
    ):
        resolve(ModelSpec(ref="artifact:iit"))


def test_built_in_models_are_known_from_their_options_alone() -> None:
    options = {"width": 8, "num_layers": 2, "outputs": 3, "seed": 0}
    facts = resolve(ModelSpec(ref="zoo:gru", dtype="bfloat16", options=options), fetch=False)
    assert (facts.ref, facts.dtype, facts.folder) == ("zoo:gru", "bfloat16", None)
    assert (facts.num_layers, facts.width, facts.num_classes) == (2, 8, 3)
    assert facts.is_hashed
    assert find("zoo:gru") is None


def test_a_built_in_models_revision_is_pinned_by_its_options() -> None:
    options = {"width": 8, "num_layers": 2, "outputs": 3, "seed": 0}
    revision = resolve(ModelSpec(ref="zoo:mlp", options=options)).revision
    assert resolve(ModelSpec(ref="zoo:mlp", options=options, revision=revision)).revision == revision
    assert resolve(ModelSpec(ref="zoo:mlp", options={**options, "activation": "relu"})).revision == revision
    with pytest.raises(ModelError, match=f"pins revision {revision}, but its options hash to"):
        resolve(ModelSpec(ref="zoo:mlp", options={**options, "seed": 1}, revision=revision))


def test_a_folder_that_is_not_there_or_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere does not exist"):
        resolve(ModelSpec(ref=str(tmp_path / "nowhere")))
    with pytest.raises(ModelError, match=r"has no config\.json; give a folder"):
        resolve(ModelSpec(ref=str(tmp_path)))


def test_every_alias_is_a_hub_model_or_can_be_made() -> None:
    assert {name for name, alias in ALIASES.items() if alias.hub is None} == set(SOURCES)


def test_weights_that_are_only_pickled_are_refused_when_a_study_is_planned(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "pytorch_model.bin").touch()
    (folder / "training_args.bin").touch()
    with pytest.raises(ModelError, match=r"only in pickled files .*; save them as safetensors.*save_pre"):
        resolve(ModelSpec(ref=str(folder)))
    (folder / "model.safetensors").write_bytes(NO_TENSORS)
    assert resolve(ModelSpec(ref=str(folder))).folder == folder


def test_only_a_folder_with_all_its_weights_counts_as_found(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    assert find(str(folder)) is None
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    (folder / "model-1.safetensors").touch()
    assert not has_weights(folder)
    (folder / "model-2.safetensors").touch()
    assert has_weights(folder) and find(str(folder)) == folder


def test_clearing_the_cache_frees_what_it_held(cache: Path) -> None:
    model(cache / "models" / "smollm2-135m")
    held = size_bytes(cache)
    assert held > 0 and clear(cache) == held
    assert clear(cache) == 0 == size_bytes(cache)


# The hub, as a small server that speaks its protocol

COMMIT = "0123456789" * 4
FILES = {
    "config.json": json.dumps(LLAMA).encode(),
    "tokenizer.json": b"{}",
    "model.safetensors": NO_TENSORS,
    "pytorch_model.bin": b"the same weights again",
    "onnx/model.onnx": b"and again",
}


class Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/api/models/some/model/tree/"):
            self.reply(
                json.dumps([{"type": "file", "path": n, "size": len(b), "oid": n} for n, b in FILES.items()])
            )
        elif self.path.startswith("/api/models/some/model"):
            siblings = [{"rfilename": n, "size": len(b)} for n, b in FILES.items()]
            self.reply(json.dumps({"id": "some/model", "sha": COMMIT, "siblings": siblings}))
        elif self.path.startswith(f"/some/model/resolve/{COMMIT}/"):
            self.reply(FILES[self.path.split(f"{COMMIT}/")[1]].decode())
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def reply(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hash(text)}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


CODE = """
import json, sys
from workers.errors import ModelError
from workers.model.references import find, resolve
from workers.vocabulary import ModelSpec
def say(line):
    print(line, file=sys.stderr)
try:
    facts = resolve(ModelSpec(ref=sys.argv[1]), fetch=sys.argv[2] == "fetch", say=say)
    print(facts.revision, sorted(p.name for p in facts.folder.iterdir()), find(sys.argv[1]) == facts.folder)
except ModelError as error:
    print(error)
print([name for name in ("torch", "transformers") if name in sys.modules])
"""


def resolve_in_child(tmp_path: Path, ref: str, how: str, **environment: str) -> tuple[list[str], str]:
    """In a child, for the hub's client reads its settings when it is imported."""
    settings = {"HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(Path(__file__).parents[2])} | environment
    done = subprocess.run(
        [sys.executable, "-c", CODE, ref, how],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert lines[-1:] == ["[]"], done.stderr
    return lines[:-1], done.stderr


def test_a_hub_model_is_fetched_once_with_one_kind_of_weights(tmp_path: Path, hub: str) -> None:
    expected = f"{COMMIT} ['config.json', 'model.safetensors', 'tokenizer.json'] True"
    lines, progress = resolve_in_child(tmp_path, "some/model", "fetch", HF_ENDPOINT=hub)
    assert lines == [expected]
    assert "some/model: fetching 0 MB from the hub" in progress
    for how in ("fetch", "look"):
        lines, progress = resolve_in_child(tmp_path, "some/model", how, HF_ENDPOINT="http://127.0.0.1:9")
        assert (lines, progress) == ([expected], "")


def test_a_name_that_the_hub_does_not_know_is_refused(tmp_path: Path, hub: str) -> None:
    lines, _ = resolve_in_child(tmp_path, "smolm2-135m", "fetch", HF_ENDPOINT=hub)
    assert "the hub shows no model 'smolm2-135m'; did you mean 'smollm2-135m'?" in lines[0]


@pytest.mark.parametrize("offline", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_a_hub_out_of_reach_says_what_to_do(tmp_path: Path, offline: dict[str, str]) -> None:
    lines, _ = resolve_in_child(tmp_path, "gpt2", "fetch", HF_ENDPOINT="http://127.0.0.1:9", **offline)
    why = "HF_HUB_OFFLINE is set" if offline else "ConnectError"
    assert f"cannot be reached ({why})" in lines[0]
    assert "give a local folder, run 'swapyard models fetch gpt2' where" in lines[0]


def test_without_fetching_the_network_is_not_asked(tmp_path: Path, hub: str) -> None:
    lines, _ = resolve_in_child(tmp_path, "some/model", "look", HF_ENDPOINT=hub)
    assert "is not on this machine; get it with 'swapyard models fetch some/model'" in lines[0]
    assert not (tmp_path / "hf" / "hub").exists()


def test_a_name_of_no_kind_is_refused(tmp_path: Path) -> None:
    lines, _ = resolve_in_child(tmp_path, "a/b/c", "look")
    assert "'a/b/c' is no alias (smollm2-135m, pythia-14m" in lines[0]
