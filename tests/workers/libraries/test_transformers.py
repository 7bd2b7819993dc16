"""Promise: where transformers renames what a run leans on, it is found by trying, or its loss is told."""

import importlib
import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.utils import logging

from tests.workers.libraries.covering import outcome, without
from workers.engine.replay.probe import probed
from workers.errors import ModelError
from workers.libraries import transformers as library
from workers.libraries import transformers_loading, transformers_places, transformers_source
from workers.libraries.transformers_places import tiny
from workers.model.loading import LoadedModel, facts_of, load_module
from workers.model.references import resolve
from workers.vocabulary import ModelSpec

pytestmark = pytest.mark.versions

TOKENS = torch.tensor([[1, 2, 3]])
CACHE = probed(LoadedModel.wrap(tiny(), facts_of(tiny()))).keywords.cache or ""
"""What the installed version calls it."""
ALL = {name: name for name in ("input_ids", "use_cache", "position_ids", "inputs_embeds")} | {CACHE: CACHE}


def taking(names: Mapping[str, str]) -> Any:
    """A Llama whose forward takes these arguments and no others, each the library's of the value's name."""

    class Other(LlamaForCausalLM):
        def forward(self, **given: Any) -> Any:
            if unknown := set(given) - set(names):
                raise TypeError(f"unexpected {unknown}")
            return super().forward(**{names[name]: value for name, value in given.items()})

    parameters = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None) for n in names]
    Other.forward.__signature__ = inspect.Signature([inspect.Parameter("self", 1), *parameters])
    module = tiny()
    module.__class__ = Other
    return module


def renamed(old: str, new: str) -> Any:
    return taking({(new if name == old else name): name for name in ALL})


def lacking(name: str) -> Any:
    return taking({other: other for other in ALL if other != name})


def wrapped(module: Any) -> LoadedModel:
    return probed(LoadedModel.wrap(module, facts_of(module)))


@pytest.fixture
def tiny_is(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the probes try another model."""
    return lambda module: monkeypatch.setattr(transformers_places, "tiny", lambda: module)


@without("transformers", "forward(cache=")
def test_a_cache_of_another_name_is_found_and_resumed(tiny_is: Any) -> None:
    model = wrapped(renamed(CACHE, "kv_store"))
    assert model.keywords.cache == "kv_store"
    assert model.capability.ability("resumed").has
    tiny_is(renamed(CACHE, "kv_store"))
    assert outcome("transformers", "forward(cache=").told == (
        "another keyword, found by calling (found: kv_store)"
    )


@without("transformers", "blocks that return")
def test_a_model_without_a_cache_runs_hooked_and_says_so(tiny_is: Any) -> None:
    model = wrapped(lacking(CACHE))
    resumed = model.capability.ability("resumed")
    assert (model.keywords.cache, resumed.has) == (None, False)
    assert resumed.reason == "Other takes no key/value cache"
    tiny_is(lacking(CACHE))
    found = outcome("transformers", "blocks that return")
    assert (found.state, found.told) == ("degraded", "resumed: Other takes no key/value cache")
    assert outcome("transformers", "forward(cache=").state == "degraded"


@without("transformers", "forward(use_cache=")
@without("transformers", "forward(position_ids=")
@without("transformers", "forward(inputs_embeds=")
@pytest.mark.parametrize(
    ("name", "keyword", "told"),
    [
        ("use_cache", "use_cache", "whole runs make a cache that nobody reads (found: None)"),
        ("position_ids", "positions", "positions are counted by the cache (found: None)"),
        ("inputs_embeds", "vectors", "token ids stand in (found: None)"),
    ],
)
def test_a_model_without_a_keyword_resumes_with_the_same_logits(
    tiny_is: Any, name: str, keyword: str, told: str
) -> None:
    module = lacking(name)
    model = wrapped(module)
    assert getattr(model.keywords, keyword) is None
    assert model.capability.ability("resumed").has
    logits, _ = model.forward(TOKENS, torch.tensor([[2]]))
    whole = wrapped(tiny()).forward(TOKENS, torch.tensor([[2]]))[0]
    torch.testing.assert_close(logits, whole, rtol=0, atol=0)
    tiny_is(module)
    assert outcome("transformers", f"forward({name}=").told == told


@without("transformers", "cache_utils.Cache")
def test_cache_classes_of_other_names_are_found_by_what_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("transformers.cache_utils")
    cache, layer = library.cache_class(), library.layer_class()
    for old in ("Cache", "DynamicLayer"):
        kind = getattr(module, old)
        monkeypatch.setattr(module, f"KeyValue{old}", kind, raising=False)
        monkeypatch.delattr(module, old)
    assert library.cache_class() is cache
    assert library.layer_class() is not object and issubclass(layer, library.layer_class())
    assert outcome("transformers", "cache_utils").told == "Cache, DynamicLayer found by what it does"


def test_without_any_cache_class_nothing_is_resumed_and_nothing_breaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "_CACHE_MODULE", "transformers.no_such_module")
    stand_in = library.cache_class()
    assert library.layer_class() is object
    found = library.find_keywords(tiny(), TOKENS, 16, lambda filled: stand_in(layers=[]))
    assert (found.cache, found.use_cache, found.vectors) == (None, "use_cache", "inputs_embeds")


class Streaming(torch.nn.Module):
    """An attention that is called with ``stream`` instead of ``hidden_states``."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention

    def __call__(self, hidden_states: Any, **others: Any) -> Any:
        return super().__call__(stream=hidden_states, **others)

    def forward(self, stream: Any, **others: Any) -> Any:
        return self.attention(hidden_states=stream, **others)


@without("transformers", "forward(hidden_states=")
def test_a_hidden_state_of_another_name_is_found_by_its_shape(tiny_is: Any) -> None:
    states, mask = torch.randn(1, 3, 16), torch.ones(1, 1, 3, 3)
    assert library.hidden_keyword({"stream": states, "mask": mask}) == "stream"
    assert library.hidden_keyword({"stream": states, "other": states}) is None
    module = tiny()
    module.model.layers[0].self_attn = Streaming(module.model.layers[0].self_attn)
    tiny_is(module)
    assert outcome("transformers", "forward(hidden_states=").state == "degraded"


@without("transformers", "output.logits")
def test_logits_of_another_name_are_found_by_their_shape(tiny_is: Any) -> None:
    scores = torch.randn(1, 3, 11)

    class Renamed(LlamaForCausalLM):
        def forward(self, *given: Any, **named: Any) -> Any:
            return {"loss": None, "scores": super().forward(*given, **named).logits}

    module = tiny()
    module.__class__ = Renamed
    assert library.logits_of({"hidden": torch.ones(3), "scores": scores}) is scores
    tiny_is(module)
    assert outcome("transformers", "output.logits").told == "logits found by their shape"
    with pytest.raises(AttributeError, match="a SimpleNamespace has no logits"):
        library.logits_of(SimpleNamespace(states=scores))


@without("transformers", "get_output_embeddings")
def test_a_model_without_an_unembedding_is_refused(tiny_is: Any) -> None:
    module = tiny()
    module.get_output_embeddings = None
    with pytest.raises(ModelError, match="has no unembedding: only language models can be read"):
        wrapped(module)
    tiny_is(module)
    assert outcome("transformers", "get_output_embeddings").state == "error"


@without("transformers", "config.get_text_config")
def test_without_get_text_config_the_text_models_config_is_read(tiny_is: Any) -> None:
    text = SimpleNamespace(sliding_window=4)
    assert library.text_config(SimpleNamespace(text_config=text)) is text
    assert library.text_config(text) is text
    tiny_is(SimpleNamespace(config=text))
    assert outcome("transformers", "config.get_text_config").told == "text_config is read instead"


@without("transformers", "config._attn_implementation")
def test_an_attention_kernel_that_is_not_said_is_unknown(tiny_is: Any) -> None:
    tiny_is(torch.nn.Linear(1, 1))
    assert library.attention_of(torch.nn.Linear(1, 1)) == "unknown"
    assert outcome("transformers", "config._attn").told == "the report says 'unknown'"


@without("transformers", "utils.logging")
def test_without_the_librarys_switches_its_lines_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(logging, "set_verbosity_error")
    with library.quiet():
        shown = logging.get_verbosity()
    assert shown == logging.get_verbosity()
    monkeypatch.setattr(logging, "get_verbosity", lambda: logging.WARNING)
    assert outcome("transformers", "utils.logging").told == "its warnings are shown"


def refusing(*args: Any, **given: Any) -> Any:
    raise TypeError("LlamaForCausalLM.__init__() got an unexpected keyword argument 'dtype'")


@without("transformers", "from_pretrained(")
def test_a_library_that_loads_otherwise_refuses_the_model_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = tiny()
    module.save_pretrained(tmp_path)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refusing)
    with pytest.raises(ModelError, match=r"cannot be loaded from .*: .*unexpected keyword argument 'dtype'"):
        load_module(ModelSpec(ref="tiny"), facts_of(module).__class__(**facts_with(module, tmp_path)))
    assert outcome("transformers", "from_pretrained(").state == "error"


def facts_with(module: Any, folder: Path) -> dict[str, Any]:
    facts = facts_of(module)
    return {name: getattr(facts, name) for name in facts.__slots__} | {"folder": folder}


@without("transformers", "output_loading_info")
def test_a_library_that_does_not_say_what_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_loading, "_loaded", lambda *_, **__: (tiny(), {}))
    found = outcome("transformers", "output_loading_info")
    assert found.state == "error"
    assert "weights that are amiss are not told: missing_keys, unexpected_keys" in found.told


@without("transformers", "the report of a load")
def test_a_report_of_another_form_leaves_the_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_loading, "_APART", re.compile("never written"))
    told = outcome("transformers", "the report of a load").told
    assert told == "experts that cannot be put together are told from the file's headers alone"


@without("transformers", "from_config on the meta device")
def test_a_library_that_makes_weights_for_paths_of_modules_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = tiny()
    monkeypatch.setattr(transformers_loading, "tiny", lambda: real)
    monkeypatch.setattr(AutoModelForCausalLM, "from_config", lambda config: real)
    told = outcome("transformers", "from_config").told
    assert told == "looking up the paths of modules takes the memory of the model"


@without("transformers", "tables in its source")
def test_words_whose_tables_are_gone_are_told_at_load_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = {"model_type": "llama", "vocab_size": 7, "hidden_size": 4, "num_attention_heads": 1}
    config |= {"num_hidden_layers": 1, "intermediate_size": 4, "hidden_act": "unheard-of"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="hidden_act is 'unheard-of'; allowed: gelu"):
        resolve(ModelSpec(ref=str(tmp_path)))
    transformers_source._keys.cache_clear()
    monkeypatch.setattr(transformers_source, "find_spec", lambda name: None)
    try:
        assert resolve(ModelSpec(ref=str(tmp_path))).num_layers == 1
        told = outcome("transformers", "tables in its source").told
    finally:
        transformers_source._keys.cache_clear()
    assert told.startswith("plan does not know which there are: types of models, causal language models")
