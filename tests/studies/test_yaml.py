"""Promise: scalars are those of YAML 1.2, everything has its line, and nothing but plain data comes out."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.bounds import MOST_DIGITS
from studies.yaml import dump_yaml, read_all_yaml, read_yaml
from workers.errors import StudyError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-3", 0.005),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("7", 7),
        ("0x1f", 31),
        ("0o17", 15),
        ("017", 17),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("on", "on"),
        ("yes", "yes"),
        ("NO", "NO"),
        ("1:30", "1:30"),
        ("0:16", "0:16"),
        ("1_000", "1_000"),
        ("2025-01-01", "2025-01-01"),
        ("0b11", "0b11"),
        ("'5'", "5"),
        ("=", "="),
    ],
)
def test_a_scalar_is_what_yaml_1_2_says(text: str, value: object) -> None:
    read = read_yaml(f"key: {text}").data["key"]
    assert read == value
    assert type(read) is type(value)


def test_every_value_has_the_line_and_column_of_its_key() -> None:
    text = read_yaml("a: 1\nb:\n  - x\n  - {c: 2}\n", "study.yaml")
    assert text.marks["a",] == (1, 1)
    assert text.marks["b", 0] == (3, 5)
    assert text.marks["b", 1, "c"] == (4, 6)
    assert text.at(("b", 1, "c")) == "study.yaml:4"
    assert text.at(("b", 1, "not", "there")) == "study.yaml:4"


def test_an_alias_repeats_what_its_anchor_holds() -> None:
    assert read_yaml("a: &x {k: [1]}\nb: *x").data == {"a": {"k": [1]}, "b": {"k": [1]}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "f:3: the key 'a' is there twice"),
        ("a: [1", "f:1: this is no YAML"),
        (
            "\na: !!python/object:os.system x",
            "f:2: 'x' with the tag 'tag:yaml.org,2002:python/object:os.system'",
        ),
        ("a: !mine {b: 1}", "f:1: the tag '!mine' is not plain data"),
        ("a: !!int x", "f:1: 'x' with the tag 'tag:yaml.org,2002:int' is not plain data"),
        ("a: !!bool x", "f:1: 'x' with the tag 'tag:yaml.org,2002:bool' is not plain data"),
        ("? [1]\n: 2", "f:1: a key must be text"),
        ("a: &x [*x]", "f:1: an anchor contains itself"),
        ("a: 1\n--- \nb: 2", "f:1: a study file holds one document; this one holds 2"),
        ("", "f:1: a study file holds one document; this one holds 0"),
        ("a: 1\nb: " + "[" * 5000, "f:2: mappings and lists are more than 32 deep"),
        ("a:\n" + "- " * 5000 + "1", "f:2: mappings and lists are more than 32 deep"),
        ("a: 1\nb: x\x07", "f:2: the character '\\x07' is not allowed in a study file"),
        ('a: 1\nb: "\\ud800"', "f:2: '\\ud800' has half of a pair of surrogates, which is no text"),
        ('"\\ud800": 1', "f:1: '\\ud800' has half of a pair of surrogates, which is no text"),
        ("a: " + "9" * 5000, "f:1: a whole number of 5,000 digits; at most 30 are allowed"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        read_yaml(text, "f")
    assert message in str(caught.value)


def test_aliases_that_say_exponentially_much_are_refused() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(StudyError, match="more than 250,000 values"):
        read_yaml("\n".join(lines))


def test_documents_are_read_in_order() -> None:
    assert [text.data for text in read_all_yaml("a: 1\n---\nb: 2")] == [{"a": 1}, {"b": 2}]


_LARGEST = 10**MOST_DIGITS - 1

_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-_LARGEST, _LARGEST) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(_plain)
def test_what_is_written_reads_back_equal(data: object) -> None:
    read = read_yaml(dump_yaml({"key": data})).data["key"]
    assert read == data


@given(
    st.sampled_from(
        ["5e-3", "on", "1:30", "true", "0x1", "null", "~", "", ".inf", "1e5", "0o7", "<<", "=", "a: b"]
    )
)
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    assert read_yaml(dump_yaml({"key": text})).data["key"] == text
