"""Promise: prompts, labels and spans become the tokens that the model itself would see, and what cannot be
said in tokens is a reason for one pair, never a crash."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from studies.pairs.tokens import Encoding, TokenError, Tokenizer, span_tokens
from workers.errors import ModelError, StudyError
from workers.model.fetch import fetch

SPECIAL = ["<bos>", "<eos>", "<unk>"]
MERGES = [
    ("Ġ", "i"), ("Ġi", "s"), ("Ġ", "R"), ("o", "m"), ("ĠR", "om"), ("ĠRom", "e"),
    ("Ġ", "M"), ("ĠM", "a"), ("t", "h"), ("th", "e"),
]  # fmt: skip


def byte_level(folder: Path, *, bos: bool = False, eos: bool = False, **settings: object) -> Path:
    """A real byte-level BPE tokeniser as a model's folder has it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*SPECIAL, *alphabet, *(a + b for a, b in MERGES)]
    backend = Backend(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    if bos or eos:
        single = ["<bos>"] * bos + ["$A"] + ["<eos>"] * eos
        backend.post_processor = processors.TemplateProcessing(
            single=" ".join(single), special_tokens=[("<bos>", 0), ("<eos>", 1)]
        )
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<bos>", **settings}), "utf-8")
    return folder


def sentence_piece(folder: Path) -> Path:
    """A tokeniser in Llama 2's way: blanks as ▁, unknown characters as bytes."""
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *"▁TheisRom"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [("i", "s"), ("▁", "is"), ("T", "h"), ("Th", "e"), ("▁", "The"), ("o", "m"), ("R", "om"),
              ("Rom", "e"), ("▁", "Rome")]  # fmt: skip
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(SPECIAL)
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def plain(tmp_path: Path) -> Tokenizer:
    return Tokenizer.of(byte_level(tmp_path / "plain"))


@pytest.fixture
def with_bos(tmp_path: Path) -> Tokenizer:
    return Tokenizer.of(byte_level(tmp_path / "bos", bos=True))


def test_a_prompt_begins_with_bos_exactly_where_the_tokeniser_adds_one(
    plain: Tokenizer, with_bos: Tokenizer
) -> None:
    assert with_bos.encode("the").ids == (0, *plain.encode("the").ids)
    assert with_bos.encode("the").offsets == ((0, 0), (0, 3))
    assert plain.encode("the").offsets == ((0, 3),)


def test_bos_that_the_text_spells_out_is_not_added_twice(with_bos: Tokenizer) -> None:
    assert with_bos.encode("<bos>the").ids == with_bos.encode("the").ids


def test_an_end_token_is_left_off_so_that_the_prompt_can_go_on(tmp_path: Path) -> None:
    tokenizer = Tokenizer.of(byte_level(tmp_path / "m", bos=True, eos=True))
    assert tokenizer.token_text(tokenizer.encode("the").ids) == ["<bos>", "the"]


def test_truncation_and_padding_saved_with_a_tokeniser_are_ignored(tmp_path: Path) -> None:
    folder = byte_level(tmp_path / "m")
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    backend.save(str(folder / "tokenizer.json"))
    assert len(Tokenizer.of(folder).encode("abcde").ids) == 5


@given(st.text(max_size=30))
def test_readable_tokens_of_whole_characters_join_to_the_text(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    tokenizer = _shared(tmp_path_factory)
    encoded = tokenizer.encode(text)
    assert len(encoded.ids) == len(encoded.offsets)
    if text.isascii():
        assert "".join(tokenizer.token_text(encoded.ids)) == text


def _shared(factory: pytest.TempPathFactory) -> Tokenizer:
    folder = factory.getbasetemp() / "shared-tokeniser"
    return Tokenizer.of(folder if folder.exists() else byte_level(folder))


def test_token_text_keeps_blanks_and_escapes_parts_of_characters(plain: Tokenizer) -> None:
    ids = plain.encode(" Rome €").ids
    assert plain.token_text(ids) == [" Rome", " ", "\\xe2", "\\x82", "\\xac"]
    assert plain.token_text([99_999]) == ["<id 99999>"]


def test_sentence_piece_tokens_keep_their_blank_and_show_bytes(tmp_path: Path) -> None:
    tokenizer = Tokenizer.of(sentence_piece(tmp_path / "m"))
    assert tokenizer.token_text(tokenizer.encode("The Rome é").ids) == [
        " The",
        " Rome",
        " ",
        "\\xc3",
        "\\xa9",
    ]


def test_the_vocabulary_lists_every_id_once_in_order(plain: Tokenizer) -> None:
    words = plain.vocabulary()
    assert len(words) == len(SPECIAL) + 256 + len(MERGES) == len(set(words)) + words.count("�")
    assert words[:3] == SPECIAL
    assert [words[i] for i in plain.encode("the Rome").ids] == ["the", " Rome"]


def test_a_label_is_the_token_that_it_adds_after_the_prompt(plain: Tokenizer, with_bos: Tokenizer) -> None:
    for tokenizer in (plain, with_bos):
        found = tokenizer.label_ids("the capital is", " Rome")
        assert tokenizer.token_text(found) == [" Rome"]


def test_a_label_is_tokenised_in_context_not_alone(tmp_path: Path) -> None:
    tokenizer = Tokenizer.of(sentence_piece(tmp_path / "m"))
    # Alone, this tokeniser would put a blank before it.
    assert tokenizer.token_text(tokenizer.label_ids("The", "s")) == ["s"]


def test_a_label_of_several_tokens_is_refused_unless_the_first_is_asked_for(plain: Tokenizer) -> None:
    with pytest.raises(TokenError, match=r"is 3 tokens \(' Ma', 'x', 'y'\); .*'label_tokens: first'"):
        plain.label_ids("the", " Maxy")
    assert plain.token_text(plain.label_ids("the", " Maxy", first=True)) == [" Ma"]


def test_a_label_that_changes_the_prompts_tokens_is_taken_alone_or_refused(plain: Tokenizer) -> None:
    assert plain.token_text(plain.encode("a th").ids) == ["a", " ", "th"], "the premise: t and h merge"
    assert plain.token_text(plain.label_ids("a t", "h")) == ["h"]
    with pytest.raises(TokenError, match="taken alone, as it changes the prompt's own last tokens"):
        plain.label_ids("a t", "hx")


def test_a_label_that_alone_would_spell_something_else_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer.of(sentence_piece(tmp_path / "m"))
    with pytest.raises(TokenError, match="move the blank between them"):
        tokenizer.label_ids("The ", "Rome")


def test_an_empty_label_is_refused(plain: Tokenizer) -> None:
    with pytest.raises(TokenError, match="is empty"):
        plain.label_ids("the", "")


def test_labels_of_many_pairs_come_with_errors_in_their_places(plain: Tokenizer) -> None:
    good, bad, again = plain.label_ids_all([("the", " Rome"), ("the", " Rx"), ("the", " is")])
    assert (good, again) == (plain.label_ids("the", " Rome"), plain.label_ids("the", " is"))
    assert isinstance(bad, TokenError) and isinstance(bad, StudyError)


def test_a_span_covers_its_tokens_partly_covered_ones_included(with_bos: Tokenizer) -> None:
    text = "the Rome is"
    offsets = with_bos.encode(text).offsets  # <bos>, the, ␣Rome, ␣is
    assert span_tokens(text, offsets, "Rome") == (2, 3)
    assert span_tokens(text, offsets, "e R") == (1, 3)
    assert span_tokens(text, offsets, (0, 3)) == (1, 2)
    assert span_tokens(text, offsets, (0, len(text))) == (1, 4)


def test_a_span_over_a_split_character_takes_all_its_tokens(plain: Tokenizer) -> None:
    assert span_tokens("a€b", plain.encode("a€b").offsets, "€") == (1, 4)


@pytest.mark.parametrize(("part", "times"), [("a", 2), ("aa", 2), ("q", 0), ("", 0)])
def test_a_substring_must_occur_once(plain: Tokenizer, part: str, times: int) -> None:
    text = "aaa"[: times + len(part) - 1] if times else "aaa"
    with pytest.raises(TokenError, match=f"occurs {times} times .*must occur once"):
        span_tokens(text, plain.encode(text).offsets, part)


@pytest.mark.parametrize("span", [(2, 2), (-1, 2), (0, 4)])
def test_characters_outside_the_text_are_refused(plain: Tokenizer, span: tuple[int, int]) -> None:
    with pytest.raises(TokenError, match="has 3 characters"):
        span_tokens("the", plain.encode("the").offsets, span)


def test_characters_without_a_token_are_refused() -> None:
    with pytest.raises(TokenError, match="no token stands for ' '"):
        span_tokens("a b", Encoding((5, 6), ((0, 1), (2, 3))).offsets, (1, 2))


def test_a_folder_without_a_fast_tokeniser_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json; save it there once with transformers"):
        Tokenizer.of(tmp_path)


def test_a_damaged_tokeniser_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(ModelError, match=r"cannot read .*tokenizer\.json"):
        Tokenizer.of(tmp_path)


def test_ids_are_those_of_the_transformers_library(tmp_path: Path) -> None:
    """In a child, for the library is slow to import and all the rest here does without it."""
    folders = [
        byte_level(tmp_path / "a"),
        byte_level(tmp_path / "b", bos=True),
        byte_level(tmp_path / "c", add_bos_token=True),
        byte_level(tmp_path / "d", bos=True, add_bos_token=False),
        sentence_piece(tmp_path / "e"),
    ]
    code = (
        "import sys, json; from transformers import PreTrainedTokenizerFast as T\n"
        "print(json.dumps([T.from_pretrained(f)('the Rome is')['input_ids'] for f in sys.argv[1:]]))"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    printed = subprocess.run(
        [sys.executable, "-c", code, *map(str, folders)], env=environment, capture_output=True, text=True
    )
    expected = json.loads(printed.stdout.splitlines()[-1])
    assert [list(Tokenizer.of(folder).encode("the Rome is").ids) for folder in folders] == expected


@pytest.mark.smollm2
def test_smollm2_prompts_have_five_tokens_and_no_bos() -> None:
    tokenizer = Tokenizer.of(fetch("smollm2-135m", say=print))
    encoded = tokenizer.encode("The capital of Spain is")
    assert tokenizer.token_text(encoded.ids) == ["The", " capital", " of", " Spain", " is"]
    assert tokenizer.label_ids("The capital of Spain is", " Madrid") == (28030,)
    assert span_tokens("The capital of Spain is", encoded.offsets, "Spain") == (3, 4)
    assert tokenizer.token_text(tokenizer.encode("a\n\n12").ids) == ["a", "\n\n", "1", "2"]
