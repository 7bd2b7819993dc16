"""Promise: given pairs become exactly the inputs that their text says; of those that a filter judges the
first right ones are kept, in order; and for every other pair there is one clear reason."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan import prepare as module
from orchestrator.plan.prepare import Prepared, prepare
from orchestrator.plan.tables import Lane
from studies.pairs.tokens import Tokenizer
from workers.errors import StudyError
from workers.model.references import resolve
from workers.vocabulary import ModelSpec, Vectors

from .world import CAPITALS, Oracle, Row, lane_of, row

THE, CAPITAL, OF, SPAIN, ITALY, FRANCE, PERU, IS = (14, 2, 3, 4, 5, 6, 7, 8)
MADRID, ROME, PARIS, LIMA = (9, 10, 11, 12)
ANSWERS = {(THE, CAPITAL, OF, n, IS): n + 5 for n in (SPAIN, ITALY, FRANCE, PERU)}
"""A model that knows every capital."""


def ready(folder: Path, rows: Sequence[Row], scorer: Any = None, **changes: Any) -> Prepared:
    settings = {"filter": None, "aligned": False, "num_pairs": None, "label_tokens": None, **changes}
    facts = resolve(ModelSpec(ref=str(folder)))
    return prepare(rows, lane_of(folder), facts, Tokenizer.of(folder), scorer, **settings)


def kept(prepared: Prepared) -> list[int]:
    return [one.given for one in prepared.kept]


def test_texts_become_tokens_labels_and_spans(tiny_folder: Path) -> None:
    given_row = row(
        "Spain",
        "Italy",
        label=[" Rome", " Paris"],
        source_2="The capital of France is",
        **{
            "span.country": "Spain",
            "source.span.country": [15, 20],
            "source_2.span.all": "capital of France",
        },
    )
    (one,) = ready(tiny_folder, [given_row]).inputs
    assert one.tokens == {
        "base": (THE, CAPITAL, OF, SPAIN, IS),
        "source": (THE, CAPITAL, OF, ITALY, IS),
        "source_2": (THE, CAPITAL, OF, FRANCE, IS),
    }
    assert one.spans == {
        "base": {"country": (3, 4)},
        "source": {"country": (3, 4)},
        "source_2": {"all": (1, 4)},
    }
    assert (one.label_ids, one.base_label_ids) == ((ROME, PARIS), (MADRID,))
    assert one.reason is None


def test_token_ids_are_taken_as_they_are(tiny_folder: Path) -> None:
    rows = [{"base_ids": [3, 1, 4], "source_ids": [1, 5], "base_label": 9, "label": [2, 6]}]
    (one,) = ready(tiny_folder, rows).inputs
    assert one.tokens == {"base": (3, 1, 4), "source": (1, 5)}
    assert (one.label_ids, one.base_label_ids) == ((2, 6), (9,))


def test_vectors_are_taken_as_they_are(tiny_folder: Path) -> None:
    base, source = Vectors.of([[0.5] * 32, [2.0] * 32]), Vectors.of([[1.0] * 32])
    (one,) = ready(tiny_folder, [{"base_embeds": base, "source_embeds": source, "label": 2}]).inputs
    assert one.tokens == {"base": base, "source": source}
    assert (one.spans, one.label_ids) == ({"base": {}, "source": {}}, (2,))


GRU = ModelSpec(ref="zoo:gru", options={"width": 2, "num_layers": 1, "outputs": 3, "seed": 0})
GPT = ModelSpec(
    ref="zoo:gpt", options={"width": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 20, "seed": 0}
)


@pytest.mark.parametrize(
    ("model", "broken", "text"),
    [
        (GRU, {"base": "a"}, "base: 'a' is text, and zoo:gru has no tokenizer; give base_ids or base_embeds"),
        (GRU, {"base_ids": [1]}, "base: token ids, and zoo:gru has no vocabulary; give vectors"),
        (GRU, {"label": 3}, "label: 3 is no answer; zoo:gru predicts classes 0 to 2"),
        (GRU, {"label": "a"}, "label: 'a' is text, but its prompt is none; give the number of a class"),
        (GPT, {"base_ids": [3, 20]}, "base: token id 20: zoo:gpt has ids 0 to 19"),
        (GRU, {"base_embeds": Vectors.of([[0.5]])}, "base: vectors of 1 numbers: zoo:gru takes 2 for each"),
        (
            GPT,
            {"base_ids": [1], "base_label": 20},
            "base_label: 20 is no answer; zoo:gpt predicts token ids 0 to 19",
        ),
    ],
)
def test_what_a_model_without_a_tokeniser_cannot_be_given_is_said(
    model: ModelSpec, broken: dict[str, Any], text: str
) -> None:
    is_whole = set(broken) & {"base", "base_ids", "base_embeds"}
    row = broken if is_whole else {"base_embeds": Vectors.of([[0.5, 1.0]]), **broken}
    with pytest.raises(StudyError) as caught:
        prepared(model, [row])
    assert str(caught.value).startswith(f"no pair is left of 1 for {model.ref}: 1 × ")
    assert str(caught.value).endswith("(pair 0)")
    assert text in str(caught.value)


def test_prompts_are_ids_or_vectors_and_not_some_of_each(tiny_folder: Path) -> None:
    rows: list[Row] = [{"base_ids": [1, 2], "source_embeds": Vectors.of([[0.5] * 32])}]
    with pytest.raises(StudyError, match=r"prompts of the pairs are token ids and vectors of 32; give all"):
        ready(tiny_folder, rows)


def test_a_filter_judges_vectors_by_class() -> None:
    rows: list[Row] = [{"base_embeds": Vectors.of([[n, 1.0]]), "base_label": n % 2} for n in range(4)]
    said = Oracle({row["base_embeds"]: 0 for row in rows})
    assert kept(prepared(GRU, rows, said, filter="both_correct")) == [0, 2]


def prepared(model: ModelSpec, rows: Sequence[Row], scorer: Any = None, **changes: Any) -> Prepared:
    """As `ready`, with a built-in model."""
    settings = {"filter": None, "aligned": False, "num_pairs": None, "label_tokens": None, **changes}
    facts = resolve(model)
    lane = Lane(lane=0, spec=model, identity="{}", num_parameters=1)
    return prepare(rows, lane, facts, None, scorer, **settings)


def test_a_pair_without_label_predicts_nothing(tiny_folder: Path) -> None:
    (one,) = ready(tiny_folder, [{"base": "The capital"}]).inputs
    assert (one.label_ids, one.base_label_ids, list(one.tokens)) == ((), (), ["base"])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"label": " Rome is"}, "label: the label ' Rome is' after 'The capital of Spain is' is 2 tokens"),
        ({"base_label": " Rome is"}, "base_label: the label ' Rome is'"),
        ({"span.x": "Peru"}, "base: the span 'Peru' occurs 0 times in 'The capital of Spain is'"),
        ({"span.x": "a"}, "base: the span 'a' occurs 3 times"),
        ({"source.span.x": [0, 99]}, "source: the span [0, 99) is not in 'The capital of Italy is'"),
        (
            {"base": None, "base_ids": [1]},
            "base_label: ' Madrid' is text, but its prompt is none; give a token id",
        ),
    ],
)
def test_a_broken_pair_is_left_out_with_its_reason_and_ends_no_other(
    tiny_folder: Path, changes: dict[str, Any], text: str
) -> None:
    broken = {
        name: value for name, value in {**row("Spain", "Italy"), **changes}.items() if value is not None
    }
    found = ready(tiny_folder, [row("Italy", "Peru"), broken, row("Peru", "Italy")])
    assert kept(found) == [0, 2]
    assert (found.inputs[1].reason or "").startswith(text)


def test_labels_may_count_by_their_first_token(tiny_folder: Path) -> None:
    (one,) = ready(tiny_folder, [row("Spain", "Italy", label=" Rome is")], label_tokens="first").inputs
    assert one.label_ids == (ROME,)


def test_a_filter_keeps_the_first_right_pairs_in_order_and_says_what_became_of_the_others(
    tiny_folder: Path,
) -> None:
    rows = [
        row("Spain", "Italy"),  # the model misses Italy
        row("France", "Spain"),
        row("Italy", "Spain"),
        row("Spain", "France", label=" Rome is"),
        row("Spain", "Peru"),
        row("Peru", "Spain"),
    ]
    misses_italy = {tokens: answer for tokens, answer in ANSWERS.items() if ITALY not in tokens}
    found = ready(tiny_folder, rows, Oracle(misses_italy), filter="both_correct", num_pairs=2)
    assert kept(found) == [1, 4]
    assert [(one.reason or "").partition(" is 2 tokens")[0] for one in found.inputs] == [
        "the model does not answer the source with its source_label",
        "",
        "the model does not answer the base with its base_label",
        "label: the label ' Rome is' after 'The capital of Spain is'",
        "",
        "enough pairs without it",
    ]
    assert found.prompts == {"usable": 3, "are answered otherwise by the model": 1}


def test_a_filter_without_a_right_answer_to_compare_with_says_so(tiny_folder: Path) -> None:
    rows = [{key: value for key, value in row("Spain", "Italy").items() if key != "source_label"}]
    with pytest.raises(StudyError, match="1 × there is no source_label for the filter to compare with"):
        ready(tiny_folder, rows, Oracle(ANSWERS), filter="both_correct")


def test_a_filter_drops_what_cannot_be_tokenised(tiny_folder: Path) -> None:
    rows = [{**row("Spain", "Italy"), "span.x": "Peru"}, row("Spain", "Italy")]
    found = ready(tiny_folder, rows, Oracle(ANSWERS), filter="both_correct")
    assert kept(found) == [1]
    assert (found.inputs[0].reason or "").startswith("base: the span 'Peru' occurs 0 times")


def test_unaligned_pairs_fall_out_where_a_task_asks_for_it(tiny_folder: Path) -> None:
    rows = [row("Spain", "Italy"), {**row("Spain", "Italy"), "source": "The capital is"}]
    assert kept(ready(tiny_folder, rows)) == [0, 1]
    found = ready(tiny_folder, rows, Oracle(ANSWERS), filter="both_correct", aligned=True)
    assert kept(found) == [0]
    assert found.inputs[1].reason == "base and source have unequal numbers of tokens"


def test_without_a_model_the_filter_is_an_upper_bound(tiny_folder: Path) -> None:
    rows = [row("Spain", "Italy"), row("France", "Spain"), row("Italy", "Spain")]
    assert kept(ready(tiny_folder, rows, None, filter="both_correct", num_pairs=2)) == [0, 1]


def test_no_pair_left_is_an_error_with_the_reasons(tiny_folder: Path) -> None:
    rows = [row("Spain", "Italy"), row("France", "Spain")]
    with pytest.raises(
        StudyError, match=r"no pair is left of 2 for .*: 2 × the model does not answer the base"
    ):
        ready(tiny_folder, rows, Oracle({}), filter="both_correct")


def test_each_prompt_is_run_once_and_no_more_than_needed(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    rows = [row("Spain", "Italy"), row("Italy", "Spain"), row("Spain", "France"), row("Peru", "Italy")]
    oracle = Oracle(ANSWERS)
    found = ready(tiny_folder, rows, oracle, filter="both_correct", num_pairs=1)
    assert kept(found) == [0]
    assert [run.tokens[3] for run in oracle.asked] == [SPAIN, ITALY]


COUNTRIES = sorted(CAPITALS)
PAIRS = [(base, source) for base in COUNTRIES for source in COUNTRIES if base != source]


@settings(max_examples=40, deadline=None)
@given(
    chosen=st.lists(st.sampled_from(PAIRS), min_size=1, max_size=12),
    known=st.sets(st.sampled_from(COUNTRIES)),
    num_pairs=st.none() | st.integers(1, 5),
    chunk=st.integers(1, 4),
)
def test_the_filter_agrees_with_judging_pairs_one_by_one(
    tiny_folder: Path, chosen: list[tuple[str, str]], known: set[str], num_pairs: int | None, chunk: int
) -> None:
    """`chunk` is how many prompts are run at once: it decides nothing."""
    numbers = {"Spain": SPAIN, "Italy": ITALY, "France": FRANCE, "Peru": PERU}
    right = {tokens: answer for tokens, answer in ANSWERS.items() if tokens[3] in {numbers[c] for c in known}}
    expected = [at for at, pair in enumerate(chosen) if set(pair) <= known][:num_pairs]
    rows = [row(*pair) for pair in chosen]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        if not expected:
            with pytest.raises(StudyError, match="no pair is left"):
                ready(tiny_folder, rows, Oracle(right), filter="both_correct", num_pairs=num_pairs)
        else:
            found = ready(tiny_folder, rows, Oracle(right), filter="both_correct", num_pairs=num_pairs)
            assert kept(found) == expected
            assert all(one.reason for one in found.inputs if one.given not in expected)
