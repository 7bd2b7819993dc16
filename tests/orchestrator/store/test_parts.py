"""Promise: rows come back from a part as they went in, small, and never changed without notice."""

import hashlib
import io
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.store import Manifest, decode_part, encode_part, part_columns
from orchestrator.store.parts import concatenated
from workers.errors import StoreError

from .conftest import make_manifest

pytestmark = pytest.mark.versions

BOTH = ("logits", "kl")


def make_columns(num_rows: int, families: tuple[str, ...] = BOTH, seed: int = 0) -> dict[str, Any]:
    """Rows as a worker makes them: 64 pairs for each cell, floats of no special form."""
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {
        "cell": np.arange(num_rows, dtype=np.uint32) // 64,
        "pair": np.arange(num_rows, dtype=np.uint32) % 64,
        "error": [None] * num_rows,
        "attempt": np.zeros(num_rows, np.uint8),
        "tier": ["hooked"] * num_rows,
    }
    for name, type_ in list(part_columns(families).items())[len(made) :]:
        floats = rng.normal(15, 3, num_rows).astype(np.float32)
        made[name] = floats if type_ == "float32" else rng.integers(0, 60, num_rows, dtype=np.int32)
    return made


def describe(data: bytes, num_rows: int, families: tuple[str, ...] = BOTH) -> Manifest:
    digest = hashlib.sha256(data).hexdigest()
    return make_manifest(size_bytes=len(data), sha256=digest, rows=num_rows, families=families)


@pytest.mark.parametrize("families", [("logits",), ("kl",), BOTH])
def test_rows_come_back_as_they_went_in_with_only_their_families_columns(families: tuple[str, ...]) -> None:
    columns = make_columns(1000, families)
    data = encode_part(columns, families)
    table = decode_part(data, describe(data, 1000, families))
    assert table.column_names == list(part_columns(families))
    for name, values in columns.items():
        assert table[name].to_pylist() == list(values)


def test_the_columns_are_those_that_the_format_promises() -> None:
    assert part_columns(("kl", "logits")) == {
        **{"cell": "uint32", "pair": "uint32", "error": "string", "attempt": "uint8", "tier": "string"},
        **{"label_logit": "float32", "base_label_logit": "float32", "logsumexp": "float32"},
        **{"pred_logit": "float32", "margin": "float32"},
        **{"label_rank": "int32", "base_label_rank": "int32", "pred_id": "int32"},
        **{"kl_base": "float32", "kl_source": "float32", "tv_base": "float32"},
    }


floats = st.one_of(st.none(), st.floats(width=32))


def bits(values: list[float | None]) -> bytes:
    return np.array([value for value in values if value is not None], np.float32).tobytes()


@given(st.lists(st.tuples(floats, floats), min_size=1, max_size=20))
def test_every_float_survives_bit_by_bit_and_null_is_not_nan(rows: list[tuple[float | None, ...]]) -> None:
    columns = make_columns(len(rows), ("kl",))
    columns["kl_base"], columns["kl_source"] = ([row[i] for row in rows] for i in range(2))
    data = encode_part(columns, ("kl",))
    table = decode_part(data, describe(data, len(rows), ("kl",)))
    for name in ("kl_base", "kl_source"):
        found = table[name].to_pylist()
        assert [value is None for value in columns[name]] == [value is None for value in found]
        assert bits(columns[name]) == bits(found)


def test_columns_may_be_lists_or_arrays_of_wider_numbers() -> None:
    wide = {
        name: np.array(values, object if name == "error" else None).astype(type_)
        for (name, values), type_ in zip(
            make_columns(4, ("kl",)).items(), ("i8", "i8", "O", "i8", "U", "f8", "f8", "f8"), strict=True
        )
    }
    lists = {name: values.tolist() for name, values in wide.items()}
    assert (
        encode_part(wide, ("kl",))
        == encode_part(lists, ("kl",))
        == encode_part(make_columns(4, ("kl",)), ("kl",))
    )


def test_masked_elements_are_null() -> None:
    columns = make_columns(3, ("kl",))
    columns["kl_base"] = np.ma.masked_invalid(np.array([1.0, np.nan, 3.0], np.float32))
    data = encode_part(columns, ("kl",))
    assert decode_part(data, describe(data, 3, ("kl",)))["kl_base"].to_pylist() == [1.0, None, 3.0]


def test_a_failed_row_keeps_its_error_and_has_no_metrics() -> None:
    columns = make_columns(2, ("kl",))
    columns["error"] = [None, "ModelError: out of memory"]
    columns["kl_base"], columns["kl_source"] = [0.5, None], [0.25, None]
    data = encode_part(columns, ("kl",))
    row = decode_part(data, describe(data, 2, ("kl",))).to_pylist()[1]
    assert row["error"] == "ModelError: out of memory" and row["kl_base"] is None


def test_floats_are_split_by_byte_numbers_that_repeat_go_through_dictionaries_and_all_is_zstd() -> None:
    file = pq.ParquetFile(io.BytesIO(encode_part(make_columns(5000), BOTH)))
    group = file.metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    for name, type_ in part_columns(BOTH).items():
        wanted = "BYTE_STREAM_SPLIT" if type_ == "float32" else "RLE_DICTIONARY"
        assert wanted in columns[name].encodings, name


def test_rows_are_small() -> None:
    # Ten random floats of 24 bits of noise cost about 32 bytes; everything else together under 3.
    data = encode_part(make_columns(30_000), BOTH)
    assert len(data) / 30_000 < 35


def test_another_program_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    path.write_bytes(encode_part(make_columns(640), BOTH))
    query = "SELECT count(*), count(error), max(cell), any_value(tier) FROM read_parquet(?)"
    assert duckdb.execute(query, [str(path)]).fetchall() == [(640, 0, 9, "hooked")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred": np.zeros(4)}, "has the columns"),
        ({"cell": np.array([1, 2, 3, -1])}, "-1"),
        ({"cell": [1, None, 3, 4]}, "null"),
        ({"cell": [1, 2, 3]}, "length"),
        ({"cell": ["a"] * 4}, "a"),
    ],
)
def test_columns_that_make_no_part_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_part({**make_columns(4), **change}, BOTH)


def test_unknown_families_are_refused() -> None:
    for families in ((), ("logit",)):
        with pytest.raises(ValueError, match="some of the metric families"):
            part_columns(families)


def test_a_single_flipped_bit_anywhere_is_noticed() -> None:
    data = encode_part(make_columns(100), BOTH)
    manifest = describe(data, 100)
    for at in range(0, len(data), max(1, len(data) // 200)):
        flipped = bytearray(data)
        flipped[at] ^= 1
        with pytest.raises(StoreError, match="is damaged: its bytes are not those committed"):
            decode_part(bytes(flipped), manifest)


def test_pages_carry_checksums_of_their_own() -> None:
    data = bytearray(encode_part(make_columns(5000, ("kl",)), ("kl",)))
    column = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(0).column(5)
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    with pytest.raises(StoreError, match=r"CRC|checksum"):
        decode_part(bytes(data), describe(bytes(data), 5000, ("kl",)))


@pytest.mark.parametrize("what", [{"num_rows": 99}, {"families": ("logits",)}])
def test_a_part_that_is_not_what_its_commit_says_is_refused(what: dict[str, Any]) -> None:
    data = encode_part(make_columns(100), BOTH)
    with pytest.raises(StoreError, match="does not hold the rows and columns"):
        decode_part(data, describe(data, **{"num_rows": 100, **what}))


def test_only_some_columns_may_be_read_and_are_checked_all_the_same() -> None:
    columns = make_columns(100)
    data = encode_part(columns, BOTH)
    table = decode_part(data, describe(data, 100), ("pair", "tier"))
    assert table.to_pydict() == {"pair": list(columns["pair"]), "tier": columns["tier"]}
    with pytest.raises(StoreError, match="does not hold the rows and columns"):
        decode_part(data, describe(data, 99), ("pair",))


def test_parts_become_one_file_sorted_by_cell_and_pair() -> None:
    parts = []
    for seed, first in enumerate((3000, 0, 500)):
        columns = make_columns(400, seed=seed)
        columns["cell"] = columns["cell"] + np.uint32(first)
        columns["tier"] = [("hooked", "resumed", "unchanged")[seed]] * 400
        columns["error"][seed] = f"error {seed}"
        columns["margin"][7] = np.nan
        parts.append((columns, encode_part(columns, BOTH)))
    tables = [decode_part(data, describe(data, 400)) for _, data in parts]
    data = concatenated(tables)
    merged = decode_part(data, describe(data, 1200))
    rows = [row for table in tables for row in table.to_pylist()]
    rows.sort(key=lambda row: (row["cell"], row["pair"]))
    assert repr(merged.to_pylist()) == repr(rows)


def test_a_file_of_before_a_column_was_added_reads_as_null_there_and_merges_with_others() -> None:
    new = encode_part(make_columns(50), BOTH)
    old = io.BytesIO()
    pq.write_table(pq.ParquetFile(io.BytesIO(new)).read().drop_columns(["tv_base"]), old)
    tables = [decode_part(data, describe(data, 50)) for data in (old.getvalue(), new)]
    assert tables[0].schema == tables[1].schema
    assert tables[0]["tv_base"].null_count == 50 and tables[1]["tv_base"].null_count == 0
    assert tables[0].drop_columns(["tv_base"]).equals(tables[1].drop_columns(["tv_base"]))
    some = decode_part(old.getvalue(), describe(old.getvalue(), 50), ("tv_base", "cell"))
    assert some.column_names == ["cell", "tv_base"]
    merged = concatenated(tables)
    assert decode_part(merged, describe(merged, 100))["tv_base"].null_count == 50


def test_what_was_collected_comes_back_number_for_number_and_only_where_there_is_any() -> None:
    columns = make_columns(3)
    vectors = [np.arange(4, dtype=np.float32) / 3, np.array([0.1], np.float32)]
    found = [
        {"unit": number, "token": (2, None)[number], "vector": one} for number, one in enumerate(vectors)
    ]
    with_some = encode_part({**columns, "collected": np.array([None, found, None], object)}, BOTH)
    without = encode_part({**columns, "collected": np.full(3, None, object)}, BOTH)
    assert without == encode_part(columns, BOTH)
    tables = [decode_part(data, describe(data, 3)) for data in (with_some, without)]
    wanted = [{**one, "vector": one["vector"].tolist()} for one in found]
    assert tables[0]["collected"].to_pylist() == [None, wanted, None]
    assert "collected" not in tables[1].column_names
    merged = concatenated(tables)
    assert decode_part(merged, describe(merged, 6))["collected"].to_pylist().count(wanted) == 1
    columns_of = pq.ParquetFile(io.BytesIO(with_some)).metadata.row_group(0)
    numbers = columns_of.column(columns_of.num_columns - 1)
    assert numbers.path_in_schema.startswith("collected.") and "BYTE_STREAM_SPLIT" in numbers.encodings


def test_a_large_file_is_in_groups_that_a_reader_can_skip() -> None:
    columns = make_columns(300_000, ("kl",))
    data = encode_part(columns, ("kl",))
    groups = pq.ParquetFile(io.BytesIO(data)).metadata
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [131072, 131072, 37856]
