"""Promise: every family that is listed as resumed is found so at load, and its rows are those of whole
forwards, changed anywhere in a block, under a sliding window too; a family listed as hooked says why."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from families import SHORT_WINDOWS, small
from tiny import pairs, swap

from workers.engine import single_token
from workers.engine.batch import HOOKED as HOOKED_ROW
from workers.engine.batch import RESUMED as RESUMED_ROW
from workers.engine.engine import Batch, BatchResult, Engine
from workers.engine.replay.families import HOOKED, LEVEL, RESUMED
from workers.model.loading import LoadedModel
from workers.tolerances import AGREEMENT
from workers.vocabulary import Cell

pytestmark = pytest.mark.versions

TOKENS = 9
SOME = pairs(3, lengths=(TOKENS, TOKENS))


MAKE_KEYS = {
    *(
        "k_proj",
        "v_proj",
        "qkv_proj",
        "query_key_value",
        "c_attn",
        "Wqkv",
        "input_layernorm",
        "ln_1",
        "norm_1",
    ),
    *("kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj", "k_norm", "self_attn_layer_norm"),
}
"""Modules that keys and values are made of, whatever the family."""


@pytest.fixture(autouse=True)
def _always_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens go through their blocks alone wherever they can, however few they are."""
    monkeypatch.setitem(single_token.WORTH, "cpu", 0)


def modules_of_blocks(model: LoadedModel, blocks: str) -> list[str]:
    """Path of each block, and of the modules right inside that return a tensor of each token, once a run."""
    seen: dict[str, list[torch.Size]] = {}

    def look(path: str) -> None:
        def note(_: object, __: object, output: object) -> None:
            first = output[0] if isinstance(output, tuple) else output
            seen.setdefault(path, []).append(first.shape if isinstance(first, torch.Tensor) else torch.Size())

        handles.append(model.module.get_submodule(path).register_forward_hook(note))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for number, block in model.module.get_submodule(blocks).named_children():
        for path in (number, *(f"{number}.{name}" for name, _ in block.named_children())):
            look(f"{blocks}.{path}")
    with torch.inference_mode():
        model.module(input_ids=torch.tensor([SOME[0].tokens["base"]]))
    for handle in handles:
        handle.remove()
    return [path for path, shapes in seen.items() if [shape[:-1] for shape in shapes] == [(1, TOKENS)]]


def run(model: LoadedModel, cells: list[Cell], *, resume: bool) -> BatchResult:
    batch = Batch(cells=list(enumerate(cells)), pairs=SOME, families=("logits", "kl"))
    engine = Engine(model, capture_budget_bytes=1 << 28, shortcut=False, resume=resume)
    outcome = engine.run(batch)
    assert [error for error in outcome.columns["error"] if error] == []
    return outcome


def check_tiers_agree(model: LoadedModel) -> Mapping[str, int]:
    """A swap at each module at a middle and at the last token: the tiers of the resumed run's rows."""
    assert model.resume is not None, model.tier_reason
    cells = [
        swap(path, None, (token,), read=TOKENS - 1)
        for path in modules_of_blocks(model, model.resume.blocks)
        for token in (5, TOKENS - 1)
    ]
    resumed, whole = run(model, cells, resume=True), run(model, cells, resume=False)
    assert whole.tiers == {HOOKED_ROW: len(cells) * len(SOME)}
    scale = max(np.abs(whole.columns[name]).max() for name in ("pred_logit", "label_logit"))
    for name in ("label_logit", "base_label_logit", "pred_logit", "logsumexp", "kl_base"):
        found, expected = resumed.columns[name], whole.columns[name]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale, err_msg=name)
    assert np.ptp(whole.columns["label_logit"]) > 1e-2 * scale, "the swaps change nothing"
    return resumed.tiers


@pytest.mark.parametrize("model_type", RESUMED)
def test_a_family_that_resumes_gives_the_rows_of_whole_forwards(model_type: str) -> None:
    model = small(model_type)
    assert model.resume is not None and model.resume.grows, model.tier_reason
    tiers = check_tiers_agree(model)
    assert tiers[RESUMED_ROW] > 2 * tiers.get(HOOKED_ROW, 0)
    names = {tap.module.rpartition(".")[2] for tap in model.resume.token_local}
    assert names
    assert names.isdisjoint(MAKE_KEYS)


# What older releases of transformers use.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("model_type", LEVEL)
def test_a_family_that_resumes_from_one_block_a_forward_does_so(model_type: str) -> None:
    model = small(model_type)
    assert model.resume is not None and not model.resume.grows and not model.resume.token_local
    assert set(check_tiers_agree(model)) == {RESUMED_ROW}


@pytest.mark.parametrize("model_type", SHORT_WINDOWS)
def test_a_window_shorter_than_the_prompt_is_kept(model_type: str) -> None:
    model = small(model_type, **SHORT_WINDOWS[model_type])
    assert check_tiers_agree(model)[RESUMED_ROW]


@pytest.mark.parametrize("model_type", HOOKED)
def test_a_family_that_does_not_resume_runs_hooked_and_says_why(model_type: str) -> None:
    model = small(model_type)
    assert model.resume is None
    assert model.tier_reason.startswith("hooked: ")
    path = next(name for name, m in model.module.named_modules() if isinstance(m, torch.nn.ModuleList))
    cells = [swap(f"{path}.1:input", None, (5,), read=TOKENS - 1)]
    assert run(model, cells, resume=True).tiers == {HOOKED_ROW: len(SOME)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_tiers_agree_to_the_stated_bound(dtype: torch.dtype) -> None:
    model = small("llama", dtype=dtype)
    assert model.resume is not None, model.tier_reason
    cells = [swap(f"model.layers.{n}", None, (token,), read=TOKENS - 1) for n in range(3) for token in (5, 8)]
    resumed, whole = run(model, cells, resume=True), run(model, cells, resume=False)
    assert resumed.tiers == {RESUMED_ROW: len(cells) * len(SOME)}
    bound = AGREEMENT[str(dtype).removeprefix("torch.")] * np.abs(whole.columns["pred_logit"]).max()
    for name in ("label_logit", "pred_logit", "logsumexp"):
        np.testing.assert_allclose(resumed.columns[name], whole.columns[name], rtol=0, atol=bound)
