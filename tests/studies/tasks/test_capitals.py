"""Promise: capitals makes every ordered pair of countries once, in an order that only the seed decides."""

from itertools import islice

import pytest

from studies.pairs.pair_rows import check_row
from studies.tasks import TASKS, find_task
from studies.tasks.capitals import CAPITALS
from workers.errors import NotYetError


def test_the_table_is_large_enough() -> None:
    assert len(CAPITALS) >= 75


def test_every_ordered_pair_comes_once() -> None:
    pairs = [(row["base"], row["source"]) for row in find_task("capitals").candidates(seed=0, options={})]
    assert len(pairs) == len(set(pairs)) == len(CAPITALS) * (len(CAPITALS) - 1)
    assert all(base != source for base, source in pairs)


def test_the_seed_alone_decides_the_order() -> None:
    task = find_task("capitals")
    first = list(islice(task.candidates(seed=0, options={}), 20))
    assert list(islice(task.candidates(seed=0, options={}), 20)) == first
    assert list(islice(task.candidates(seed=1, options={}), 20)) != first


def test_rows_are_right_and_whole() -> None:
    rows = list(find_task("capitals").candidates(seed=0, options={}))
    assert not [problem for row in rows for problem in check_row(row)]
    spain = next(r for r in rows if r["base_country"] == "Spain" and r["source_country"] == "Italy")
    assert spain == {
        "base": "The capital of Spain is",
        "source": "The capital of Italy is",
        "base_label": " Madrid",
        "source_label": " Rome",
        "label": " Rome",
        "base_country": "Spain",
        "source_country": "Italy",
        "span.country": "Spain",
        "source.span.country": "Italy",
    }


def test_a_country_occurs_once_in_its_prompt() -> None:
    for row in find_task("capitals").candidates(seed=0, options={}):
        assert row["base"].count(row["span.country"]) == 1


def test_only_right_answers_are_kept_unless_said_otherwise() -> None:
    assert TASKS["capitals"].filter == "both_correct"


def test_an_unknown_task_says_which_are_there() -> None:
    with pytest.raises(NotYetError, match=r"the task 'capitols' is not there .* did you mean 'capitals'"):
        find_task("capitols")
