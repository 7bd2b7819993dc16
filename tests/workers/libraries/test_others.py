"""Promise: the loss of what Python, click, PyYAML, the hub, tokenisers and GGUF do is told or mended."""

import atexit
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import tokenizers
import torch
import yaml
from safetensors.torch import load_file
from tokenizers.models import BPE, Unigram
from transformers import AutoTokenizer

from studies.pairs.tokens import Tokenizer
from studies.yaml import dump_yaml, read_yaml
from tests.workers.libraries.covering import outcome, without
from workers.errors import ModelError, StudyError
from workers.libraries import click as click_names
from workers.libraries import gguf as gguf_names
from workers.libraries import huggingface_hub as hub_names
from workers.libraries import python as python_names
from workers.libraries import tokenizers as tokenizer_names
from workers.libraries import yaml as yaml_names
from workers.libraries.transformers_places import tiny

pytestmark = pytest.mark.versions

ROOT = Path(__file__).parents[3]

# Python

ENDING = """
import atexit, sys
{change}
atexit.register(lambda: print("at the end"))
sys.argv = ["swapyard", *{arguments}]
from orchestrator.cli import console
console()
"""


@without("python", "atexit._run_exitfuncs")
@pytest.mark.parametrize("change", ["", "del atexit._run_exitfuncs"])
@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["no-such-command"], 2)])
def test_a_command_ends_with_its_code_and_what_was_registered(
    change: str, arguments: list[str], code: int
) -> None:
    text = ENDING.format(change=change, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == "at the end"
    assert "Traceback" not in done.stderr


def test_without_a_way_to_run_them_early_they_are_left_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(atexit, "_run_exitfuncs")
    assert python_names.run_exit_functions() is False
    assert outcome("python", "atexit").state == "degraded"


@without("python", "what random.Random's shuffle")
def test_a_python_that_chooses_otherwise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random.Random, "shuffle", lambda self, items: items.reverse())
    assert outcome("python", "what random.Random").told == "a seed gives other pairs of tasks: shuffle"


# click


@without("click", "Abort")
def test_an_interrupt_is_found_behind_an_abort_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt, alone = KeyboardInterrupt(), click.Abort()
    assert click_names.interrupt_of(alone) is alone
    assert click_names.interrupt_of(interrupt) is interrupt
    alone.__context__ = interrupt
    assert click_names.interrupt_of(alone) is interrupt
    monkeypatch.setattr(click_names, "interrupt_of", lambda stop: click.Abort())
    assert outcome("click", "Abort").told == "the line that says how to go on"


# PyYAML


@without("yaml", "yaml_implicit_resolvers")
def test_a_dumper_that_has_no_table_quotes_all_text(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"a": "5e-3", "b": "1:30", "c": "text", "d": 0.005}
    assert read_yaml(dump_yaml(data)).data == data
    real = yaml.resolver.BaseResolver.resolve

    def own_table(self: Any, kind: Any, value: Any, implicit: Any) -> Any:
        table = yaml.SafeLoader.yaml_implicit_resolvers
        mine = SimpleNamespace(
            yaml_implicit_resolvers=table,
            resolver_exact_paths=self.resolver_exact_paths,
            resolver_prefix_paths=self.resolver_prefix_paths,
            yaml_path_resolvers=self.yaml_path_resolvers,
            DEFAULT_SCALAR_TAG=self.DEFAULT_SCALAR_TAG,
            DEFAULT_MAPPING_TAG=self.DEFAULT_MAPPING_TAG,
            DEFAULT_SEQUENCE_TAG=self.DEFAULT_SEQUENCE_TAG,
        )
        return real(mine, kind, value, implicit)

    scalars = yaml_names._NUMBER
    monkeypatch.setattr(yaml.SafeDumper, "resolve", own_table)
    made = yaml.dump(data, Dumper=yaml_names.dumper(scalars), sort_keys=False)
    assert made.count('"') >= 6, "text without quotes"
    assert read_yaml(made).data == data
    assert outcome("yaml", "yaml_implicit_resolvers").told == "all text is written in quotes"


@without("yaml", "problem_mark")
def test_an_error_that_does_not_say_where_is_told_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StudyError, match=r"^file:2: this is no YAML: expected"):
        read_yaml("a: 1\nb: [", "file")
    assert yaml_names.where(yaml.YAMLError("something is wrong\nmore")) == (1, "something is wrong")
    monkeypatch.setattr(yaml_names, "where", lambda error: (1, str(error)))
    assert outcome("yaml", "problem_mark").told == "the line of what is no YAML"


# The hub


@without("huggingface_hub", "models--OWNER--NAME")
def test_a_snapshot_that_is_not_named_by_its_commit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_names.commit_of(Path("cache/snapshots") / ("0a" * 20)) == "0a" * 20
    with pytest.raises(ModelError, match=r"their revision cannot be told \(cache/v2/main\); give the folder"):
        hub_names.commit_of(Path("cache/v2/main"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    assert outcome("huggingface_hub", "models--").state == "error"


# Tokenisers


@without("tokenizers", "the alphabet")
def test_a_token_in_other_letters_is_shown_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = {"Ãł": 0, "<0xE2>": 1, "日": 2}
    backend = tokenizers.Tokenizer(BPE(vocabulary, []))
    shown = Tokenizer(backend, ())
    assert [tokenizer_names.raw_bytes(raw) for raw in vocabulary] == [b"\xc3\xa0", b"\xe2", None]
    assert shown.token_text([0, 1, 2]) == ["Ãł", "<0xE2>", "日"]
    monkeypatch.setattr(tokenizer_names, "_BYTES", {})
    assert tokenizer_names.raw_bytes("Ãł") is None
    assert outcome("tokenizers", "the alphabet").told.endswith(": byte-level vocabularies")


@without("tokenizers", "model.unk_token")
def test_an_unknown_token_that_is_not_found_is_told_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    unigram = tokenizers.Tokenizer(Unigram([("a", 0.0), ("?", -1.0)], unk_id=1, byte_fallback=False))
    assert tokenizer_names.unknown_id(unigram) == 1
    assert tokenizer_names.unknown_id(tokenizers.Tokenizer(BPE({"a": 0}, []))) is None
    monkeypatch.setattr(tokenizer_names.json, "loads", lambda text: {"model": {}})
    assert tokenizer_names.unknown_id(unigram) is None
    assert outcome("tokenizers", "model.unk_token").told.endswith("are not told of Unigram")


@without("tokenizers", "errors: plain Exception")
def test_a_panic_of_the_library_is_a_failure_and_other_exits_are_not() -> None:
    class PanicException(BaseException):
        """As the library's own, which no module offers."""

    failed = pytest.raises(tokenizer_names.LibraryFailedError, match="broken in two")
    with failed, tokenizer_names.calling_library():
        raise PanicException("broken\nin two")
    with pytest.raises(KeyboardInterrupt), tokenizer_names.calling_library():
        raise KeyboardInterrupt


# GGUF


@without("gguf", "from_pretrained(gguf_file")
def test_a_model_that_may_not_be_saved_is_saved_by_a_twin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = tiny()
    real = type(module).save_pretrained

    def refuse(self: Any, folder: Path) -> None:
        if self is module:
            raise ValueError("the model is quantised by a method that cannot be saved")
        real(self, folder)

    monkeypatch.setattr(type(module), "save_pretrained", refuse)
    gguf_names.save_model(module, tmp_path)
    saved, wanted = load_file(tmp_path / "model.safetensors"), module.state_dict()
    assert all(torch.equal(saved[name], wanted[name]) for name in saved)
    monkeypatch.setattr(gguf_names, "_FILE", "of_file")
    assert outcome("gguf", "from_pretrained(").state == "error"


@without("gguf", "backend_tokenizer")
def test_a_tokeniser_that_cannot_be_mended_is_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: SimpleNamespace())
    with pytest.raises(AttributeError, match="_tokenizer"):
        gguf_names.read_tokenizer(Path("tiny.gguf"))
    backend = SimpleNamespace(pre_tokenizer=None)
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda *_, **__: SimpleNamespace(_tokenizer=backend)
    )
    gguf_names.read_tokenizer(Path("tiny.gguf"))
    assert backend.pre_tokenizer is not None
    assert outcome("gguf", "backend_tokenizer").state == "error"


@without("yaml", "CBaseLoader")
def test_without_libyaml_large_files_are_read_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_names, "_FAST", yaml.BaseLoader)
    assert outcome("yaml", "CBaseLoader").told == "large files are read slowly"
    with pytest.raises(StudyError, match="more than 32 deep"):
        read_yaml("[" * 900)
