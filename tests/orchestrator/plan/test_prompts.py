"""Promise: of every prompt and label is told what a model would be given in silence instead, or could not be
given at all; that is the reason of its pair, and of no other."""

from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from orchestrator.plan.pair_remarks import left_out
from orchestrator.plan.prompts import Encoder, Input
from studies.pairs.tokens import LONGEST_TEXT, Tokenizer
from workers.model.facts import ModelFacts

WORDS = ["<unk>", "Spain", "Italy", "Madrid", "Rome", "7", "Madras", "surplus"]


def facts(**changes: Any) -> ModelFacts:
    shape: dict[str, Any] = {
        **{"ref": "tiny", "revision": "0", "dtype": "float32", "folder": None, "model_type": "llama"},
        **{"num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "width": 4, "num_parameters": 1},
        **{"vocab_size": 7, "max_positions": 4, "has_position_table": True},
    }
    return ModelFacts(**shape | changes)


def words(*, unknown: str | None = "<unk>") -> Tokenizer:
    """A tokeniser that has the words of `WORDS` and no other."""
    model = WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token=unknown or "none")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = WhitespaceSplit()
    return Tokenizer(backend, ())


def checked(row: dict[str, Any], tokenizer: Tokenizer | None = None, **changes: Any) -> Input:
    given = Encoder(facts(**changes), tokenizer or words(), first=False, labels_differ=True)
    return given.encode(0, row)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"base": "Spain Peru"},
            "base: 'Peru' becomes <unk>, the tokeniser's token for what it lacks; write",
        ),
        ({"base": "Spain", "source": "x Italy"}, "source: 'x' becomes <unk>"),
        (
            {"base": "Spain", "label": " Paris"},
            "label: the label ' Paris' after 'Spain': 'Paris' becomes <unk>",
        ),
        (
            {"base": "Spain surplus"},
            "base: 'surplus' is token 7, and tiny has embeddings 0 to 6, fewer than its",
        ),
        ({"base": "Spain", "label": " surplus"}, "label: the label ' surplus' is token 7, and tiny predicts"),
        ({"base": "Spain " * 5}, "base: a prompt of 5 tokens, and tiny has 4 positions; give a shorter one"),
        ({"base_ids": [1] * 5}, "base: a prompt of 5 tokens, and tiny has 4 positions"),
        ({"base_ids": [1, 7]}, "base: token id 7: tiny has ids 0 to 6"),
        ({"base": ""}, "base: the prompt is empty"),
        ({"base": "Spain", "source": ""}, "source: the prompt is empty"),
        ({"base_ids": []}, "base: the prompt is empty"),
        ({"base": " "}, "base: ' ' has no token"),
        ({"base": "Spain", "label": ""}, "label: the label after 'Spain' is empty"),
        (
            {"base": "Spain", "label": 5},
            "label: the bare number 5 would be token id 5 ('7'), and the prompt is",
        ),
        ({"base": "Spain", "label": [99]}, "label: the bare number 99 would be token id 99, and the prompt"),
        ({"base": "Spain", "base_label": 5}, "base_label: the bare number 5 would be token id 5 ('7')"),
        ({"base": "Spain \ud83d"}, r"base: 'Spain \ud83d' has '\ud83d', half of a character"),
        ({"base": "a" * (LONGEST_TEXT + 1)}, "base: a text of 1,000,001 characters; give one of at most"),
    ],
)
def test_what_a_model_cannot_be_given_is_the_reason_of_its_pair(row: dict[str, Any], reason: str) -> None:
    assert (checked(row).reason or "").startswith(reason)


def test_a_text_may_spell_the_unknown_token_and_a_number_in_quotes_is_text() -> None:
    found = checked({"base": "Spain <unk>", "label": " 7"})
    assert (found.reason, found.tokens["base"], found.label_ids) == (None, (1, 0), (5,))


def test_labels_that_are_one_show_nothing_unless_the_base_is_its_own_source() -> None:
    labels = {"base_label": " Rome", "label": " Rome"}
    assert checked({"base": "Spain", "source": "Italy", **labels}).reason == (
        "label: ' Rome' is the base_label too: no intervention could show a change; give the answer that the"
        " source would have"
    )
    assert checked({"base": "Spain", "source": "Spain", **labels}).reason is None
    assert checked({"base": "Spain", **labels}).reason is None
    ids = {"base_ids": [1], "source_ids": [2], "base_label": 3, "label": [3, 3]}
    assert (checked(ids).reason or "").startswith(
        "label: [3, 3] and 3 are one token, which is the base_label"
    )
    assert checked({**ids, "label": [3, 4]}).reason is None


def test_first_tokens_that_are_one_are_told() -> None:
    backend = tokenizers.Tokenizer(BPE({"a": 0, "b": 1, "c": 2, " ": 3}, []))
    given = Encoder(facts(), Tokenizer(backend, ()), first=True, labels_differ=True)
    row = {"base": "a", "source": "b", "base_label": "cab", "label": "cb"}
    assert "'cb' and 'cab' are one token, which is the base_label too" in (given.encode(0, row).reason or "")


def test_letters_that_a_tokeniser_leaves_out_in_silence_are_told() -> None:
    without_unknown = Tokenizer(tokenizers.Tokenizer(BPE({"a": 0, "b": 1, " ": 2}, [])), ())
    assert (checked({"base": "a caz"}, without_unknown).reason or "").startswith(
        "base: letters or digits of 'a caz' become no token: the tokeniser leaves them out"
    )
    assert checked({"base": "a b"}, without_unknown).reason is None


def test_a_tokeniser_that_fails_on_a_text_is_that_pairs_reason() -> None:
    reason = checked({"base": "Spain Peru"}, words(unknown=None)).reason or ""
    assert reason.startswith("base: 'Spain Peru' cannot be tokenised: WordLevel error")


def test_a_model_without_a_table_of_positions_runs_a_long_prompt_and_it_is_counted() -> None:
    given = Encoder(facts(has_position_table=False), None, first=False, labels_differ=True)
    assert [given.encode(0, {"base_ids": [1] * n}).reason for n in (4, 5, 6)] == [None] * 3
    assert given.num_long == 2


def test_reasons_of_one_kind_are_counted_with_their_first_pairs() -> None:
    reasons = [*((n, f"label: 'a{n}' is {n} tokens") for n in range(1, 6)), (6, None), (7, "base: it's odd")]
    assert [one.text for one in left_out(reasons)] == [
        "5 × label: 'a1' is 1 tokens (pairs 1, 2, 3 …)",
        "1 × base: it's odd (pair 7)",
    ]


def test_many_kinds_of_reasons_are_told_in_few_lines() -> None:
    found = left_out((n, f"kind {chr(97 + n)}") for n in range(12))
    assert (len(found), found[-1].text) == (9, "4 × 4 other reasons (pairs 8 …)")


def test_plan_counts_what_it_leaves_out(tmp_path: Path, tiny_folder: Path) -> None:
    from orchestrator.run.overview import overview
    from tests.orchestrator.plan.world import row, study

    rows = [row("Spain", "Italy"), {**row("Spain", "Italy"), "base": ""}, row("Peru", "Italy", label=3)]
    said: list[str] = []
    made = study(tiny_folder, rows, "[{site: mlp_output, layer: 0, position: -1}]")
    found = overview(made, tmp_path, prepare=False, say=said.append)
    assert "1 pair of 3 is in the study" in found.lines()
    told = [line for line in found.lines() if line.startswith("left out: ")]
    assert told[0] == "left out: 1 × base: the prompt is empty; give text, of at least one token (pair 1)"
    assert "the bare number 3 would be token id 3 (" in told[1]
    assert [one["pairs"] for one in found.to_json()["left_out"]] == [[1], [2]]


@pytest.mark.parametrize(
    ("sweep", "is_left_out"),
    [
        ("[{site: mlp_output, layer: 0, position: -1}]", True),
        ("[{site: mlp_output, layer: 0, position: -1, from: zero}]", False),
        ("[{site: mlp_output, layer: 0, position: -1, intervention: skip}]", False),
        ("[{units: [{site: mlp_output, layer: 0, position: -1, from: {noise: 3}}], seed: 0}]", False),
    ],
)
def test_a_label_that_is_the_base_label_is_of_use_where_more_than_swaps_is_done(
    tiny_folder: Path, sweep: str, is_left_out: bool
) -> None:
    from orchestrator.plan.load_pairs import read_given
    from tests.orchestrator.plan.world import row, study

    given = read_given(study(tiny_folder, [row("Spain", "Italy")], sweep), {})
    assert given.labels_differ is is_left_out
