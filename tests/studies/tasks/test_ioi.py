"""Promise: each prompt has one answer that needs both names; its source has none, or the other one; every
mark lies on its word; and all of it depends on the seed alone."""

from itertools import islice
from typing import Any

import pytest

from studies.pairs.pair_rows import check_row
from studies.tasks import find_task
from studies.tasks.ioi import NAMES, TEMPLATES
from workers.errors import StudyError

Row = dict[str, Any]


def drawn(count: int, seed: int = 0, **options: Any) -> list[Row]:
    return [dict(row) for row in islice(find_task("ioi").candidates(seed=seed, options=options), count)]


def word(row: Row, mark: str, run: str = "base") -> str:
    prefix = "" if run == "base" else f"{run}."
    start, end = row[f"{prefix}span.{mark}"]
    text = row[run]
    assert isinstance(text, str)
    return text[start:end]


def test_every_row_is_a_pair_as_studies_take_them() -> None:
    assert [problem for row in drawn(200) for problem in check_row(row)] == []


def test_the_subject_comes_twice_and_the_answer_is_the_other_name() -> None:
    for row in drawn(200):
        io, subject, again = (word(row, mark) for mark in ("IO", "S", "S2"))
        assert subject == again != io
        assert (row["base"].count(f" {subject}"), row["base"].count(f" {io}")) == (2, 1)
        assert (row["base_label"], row["label"]) == (f" {io}", f" {subject}")
        is_first = row["span.IO"] < row["span.S"]
        assert row["template"].startswith("ABBA " if is_first else "BABA ")
        assert row["span.S"] < row["span.S2"]
        assert row["base"].endswith(word(row, "end")) and word(row, "end") == "to"


def test_the_source_abc_has_three_other_names_and_all_other_words_of_the_base() -> None:
    for row in drawn(200, source="ABC"):
        names = {word(row, mark, "source") for mark in ("IO", "S", "S2")}
        assert len(names) == 3 and not names & {word(row, "IO"), word(row, "S")}
        assert without_names(row, "base") == without_names(row, "source")
        assert "source_label" not in row


def test_the_swapped_source_has_the_names_in_each_others_places() -> None:
    for row in drawn(100, source="swapped"):
        found = [word(row, mark, "source") for mark in ("IO", "S", "S2")]
        assert found == [word(row, "S"), word(row, "IO"), word(row, "IO")]
        assert row["source_label"] == row["label"]
        assert without_names(row, "base") == without_names(row, "source")


def without_names(row: Row, run: str) -> list[str]:
    return [one for one in row[run].replace(",", " ,").split() if one not in NAMES]


def test_no_base_comes_twice_and_all_templates_orders_and_splits_do() -> None:
    rows = drawn(2000)
    assert len({row["base"] for row in rows}) == 2000
    assert {row["template"] for row in rows} == {
        f"{order} {number}" for order in ("ABBA", "BABA") for number in range(len(TEMPLATES))
    }
    assert [row["split"] for row in rows[:4]] == ["train", "test", "train", "test"]


def test_prompts_of_one_template_have_equally_many_words() -> None:
    counts: dict[str, set[int]] = {}
    for row in drawn(300):
        counts.setdefault(row["template"], set()).add(len(row["base"].split()))
    assert all(len(found) == 1 for found in counts.values())


def test_the_seed_alone_decides_and_more_pairs_only_add() -> None:
    first = drawn(5)
    assert drawn(20)[:5] == first
    assert drawn(5, seed=1) != first


def test_an_unknown_source_is_named_with_those_there_are() -> None:
    with pytest.raises(StudyError, match=r"task ioi: source 'ABD' is not known; give ABC or swapped"):
        drawn(1, source="ABD")
