"""Promise: what is kept of bases is that of the bases asked for, as far back as their jobs begin, whatever
was asked for before; and a row that cannot be changed takes no number from those beside it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from test_replay import check_tiers, run
from tiny import LAYERS, facts_of, pairs, swap, tiny, tiny_module

from workers.engine import single_token
from workers.engine.engine import Batch, BatchResult, Engine
from workers.engine.replay.base_cache import BaseCache, BaseExtent
from workers.engine.replay.probe import probed
from workers.model.loading import LoadedModel
from workers.vocabulary import Cell, Pair, Place

SOME, OTHERS = pairs(4), pairs(4, seed=1)


def call(engine: Engine, cells: Sequence[Cell], some: Sequence[Pair]) -> BatchResult:
    return engine.run(Batch(cells=list(enumerate(cells)), pairs=some, families=("logits", "kl")))


def check_alone(found: BatchResult, cells: Sequence[Cell], some: Sequence[Pair]) -> None:
    """The rows are those of an engine that was asked for nothing before."""
    alone = run(tiny("llama"), cells, some)
    assert found.tiers == alone.tiers == {"resumed": len(cells) * len(some)}
    for name in ("label_logit", "logsumexp", "kl_base"):
        np.testing.assert_allclose(found.columns[name], alone.columns[name], rtol=0, atol=1e-4)


def test_bases_that_come_back_after_others_took_their_slots_are_run_again() -> None:
    engine = Engine(tiny("llama"), capture_budget_bytes=1 << 30, shortcut=False)
    cells = [swap("mlp_output", 1, (2,)), swap("attention_output", 2, (3,))]
    for some in (SOME, OTHERS, SOME, [*OTHERS[:2], *SOME[2:]]):
        check_alone(call(engine, cells, some), cells, some)


def test_jobs_that_begin_before_those_of_earlier_calls_have_what_they_need() -> None:
    engine = Engine(tiny("llama"), capture_budget_bytes=1 << 30, shortcut=False)
    for layer, token in ((2, 3), (2, 1), (1, 3), (0, 4), (2, 2)):
        cells = [swap("mlp_output", layer, (token,)), swap("block_output", LAYERS - 1, (4,))]
        check_alone(call(engine, cells, SOME), cells, SOME)


def test_a_prompt_that_lost_its_slot_is_awaited_again() -> None:
    resume = tiny("llama").resume
    assert resume is not None
    base_cache = BaseCache(resume, BaseExtent(num_tokens=3, block=0, first=0, last=2), 2)
    one, two, three = (1, 2, 3), (4, 5, 6), (7, 8, 9)
    base_cache.reserve([one, two])
    base_cache.recorded([one, two])
    base_cache.reserve([two, three])
    assert (base_cache.holds(one), base_cache.holds(two), base_cache.awaits(three)) == (False, True, True)
    base_cache.reserve([one, two])
    assert base_cache.awaits(one) and base_cache.holds(two)


def test_rows_of_one_cell_of_which_some_go_ahead_alone_keep_their_own_bases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(single_token.WORTH, "cpu", 0)
    # What two tokens are changed by goes through the block with all others.
    ends = (3, 4, 3, 4)
    some = [
        replace(pair, spans={run: {"who": (2, end)} for run in ("base", "source")})
        for pair, end in zip(SOME, ends, strict=True)
    ]
    cells = [
        swap("mlp_output", 1, ("who",)),
        swap("attention_output", 0, ("who",)),
        swap("mlp_output", 2, (2,)),
    ]
    assert check_tiers(tiny("llama"), cells, some).tiers == {"resumed": 12}


def test_rows_whose_values_do_not_fit_fail_among_those_that_resume() -> None:
    wide = Place("mlp_activation", 1, None, (2,))
    cells = [
        swap("attention_output", 0, (2,)),
        swap("mlp_output", 1, (2,), origin=wide),
        swap("mlp_output", 1, (2,)),
        swap("block_output", 2, (2,)),
    ]
    module = tiny_module("llama")
    outcome = run(probed(LoadedModel.wrap(module, facts_of(module, "llama"))), cells, SOME)
    errors = [error is not None for error in outcome.columns["error"]]
    assert errors == [False] * 4 + [True] * 4 + [False] * 8
    assert outcome.tiers == {"resumed": 12, "rerun": 4}
    good = [cells[0], *cells[2:]]
    kept = ~np.array(errors)
    alone = run(tiny("llama"), good, SOME)
    for name in ("label_logit", "logsumexp", "kl_base"):
        np.testing.assert_allclose(outcome.columns[name][kept], alone.columns[name], rtol=0, atol=1e-4)
