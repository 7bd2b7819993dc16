"""Promise: pairs in Python may be a data frame, an Arrow table or rows with other libraries' numbers; all go
through the check of files."""

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from studies import Study
from studies.load import stored_study
from workers.errors import StudyError

IDS = [[1, 2], [3, 4]]


def made(pairs: Any) -> Any:
    return Study(
        study="s", model="zoo:gpt", pairs=pairs, sweep=[{"site": "block_output", "layer": 0, "position": 0}]
    )


def test_an_arrow_table_is_a_list_of_its_rows() -> None:
    table = pa.table({"base_ids": IDS, "when": [datetime.date(2024, 1, 1), None], "data": [b"x", b"y"]})
    assert made(table).pairs == (
        {"base_ids": [1, 2], "when": "2024-01-01", "data": "78"},
        {"base_ids": [3, 4], "when": None, "data": "79"},
    )


def test_a_data_frame_is_a_list_of_its_rows_without_its_index() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"base_ids": IDS, "label": [1, 2], "score": [0.5, None]}, index=["x", "y"])
    assert made(frame).pairs == (
        {"base_ids": [1, 2], "label": 1, "score": 0.5},
        {"base_ids": [3, 4], "label": 2},
    )
    with pytest.raises(StudyError, match="'lable' is none of ours"):
        made(frame.rename(columns={"label": "lable"}))
    with pytest.raises(StudyError, match="the column name 0 is no text"):
        made(pandas.DataFrame([[1, 2]]))


def test_values_of_other_libraries_are_plain_data() -> None:
    row = {"base_ids": np.array([1, 2]), "label": np.int64(3), "x": np.float32(0.5), "y": Decimal("1.50")}
    found = made([row])
    assert found.pairs == ({"base_ids": [1, 2], "label": 3, "x": 0.5, "y": "1.50"},)
    assert type(found.pairs[0]["label"]) is int
    assert stored_study(found.to_yaml(), "study.yaml").study == "s"


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([{"base": "a", "x": object()}], "allowed: plain data"),
        ([{"base": "a", "x": {1, 2}}], r"pairs\[0\].x: \{1, 2\} is not allowed here; allowed: plain data"),
        ([{"base": "a", 1: 2}], r"pairs\[0\]: the column name 1 is no text"),
        ([{"base": "a", "k": 1}, {"base": "b", "K": 1}], r"pairs\[1\].K: 'K' is 'k' in another pair"),
        ([{"base": "a", "x": "\ud800"}], r"pairs\[0\].x: .* cannot be kept: .* half of a pair of surrogates"),
        ("pairs.tsv", "save it with commas as .csv"),
        (iter([]), "or a list of pairs that is not empty"),
    ],
)
def test_what_is_wrong_with_rows_is_told_with_their_number(pairs: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        made(pairs)


def test_a_list_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(StudyError, match="its lists are more than 32 deep"):
        made([{"base": "a", "x": endless}])


def test_a_path_is_a_file() -> None:
    assert made(Path("p.csv")).pairs == "p.csv"
