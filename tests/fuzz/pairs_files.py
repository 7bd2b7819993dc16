"""Pairs files of which nobody would think, each with a small study that names it.

Rows are right at first; then names, values, types, the file's form or its bytes are changed. Everything comes
from one seed: the same seed and number give the same file.
"""

__all__ = ["mutants"]

import csv
import datetime
import decimal
import io
import json
import random
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.study_files import Mutant

_STUDY = """study: small
model: {ref: "zoo:gpt", width: 8, num_layers: 2, num_heads: 2, vocab_size: 10, seed: 0}
pairs: PAIRS
sweep: [{site: block_output, layers: all, position: -1}]
"""
_WORDS = """study: words
model: ./tiny
pairs: PAIRS
sweep: [{site: block_output, layers: all, position: -1, where: "WHERE"}]
"""
_NAMES = (
    *(
        "",
        " ",
        "\u200b",
        " label",
        "Label",
        "labels",
        "lable",
        "base_lable",
        "baselabel",
        "source1",
        "source_1",
    ),
    *(
        "Source",
        " source",
        "source_ids",
        "iia",
        "IIA",
        "layer",
        "study",
        "pair_id",
        "pair.iia",
        "_lane",
        "given",
    ),
    *(
        "kind",
        "Kind",
        "kind ",
        "\u00e9",
        "e\u0301",
        "\ufb01",
        "fi",
        "\x00",
        "a\x00b",
        "\ud800",
        "\u202e",
        "\x1b[31m",
    ),
    *(
        "x" * 5000,
        'a"b',
        "a'b",
        "a;b",
        "a,b",
        "a\nb",
        "span.",
        "span.x",
        "span.a b",
        "spans.x",
        "label.",
        "label.x",
    ),
    *(
        "source.span.x",
        "base.span.x",
        "task",
        "Task",
        "split",
        "read",
        "variable",
        "SELECT",
        "*",
        "1",
        "true",
        "NaN",
    ),
)
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        1.5,
        2**63,
        2**64,
        10**400,
        -(2**63),
        float("nan"),
        float("inf"),
        -0.0,
        1e308,
        5e-324,
    ),
    *(
        "",
        " ",
        "a",
        "\x00",
        "a\x00b",
        "\ud800",
        "x\udfff",
        "\u202e",
        "\ufeff",
        "\x1b[31m",
        "a\nb",
        "a\r\nb",
        '"',
        "'",
    ),
    *(
        "[1, 2]",
        "[1, 2",
        "[" * 3000,
        "{}",
        "NaN",
        "null",
        "x" * 200_000,
        "\U0001f600",
        "e\u0301",
        "\u00e9" * 50,
    ),
    *(
        [],
        [[]],
        [1, "a"],
        [None],
        {},
        {"a": 1},
        {"": 1},
        {"a": {}},
        {"a": 1, "A": 2},
        {"\u00e9": 1, "e\u0301": 2},
    ),
    *(
        [1.0, float("nan")],
        ["\ud800"],
        {"\ud800": 1},
        [[1], [2, 3]],
        [{"a": 1}, {"b": [2]}],
        [True, 1, "x", None],
    ),
    *(
        [0],
        [-1],
        [9],
        [10],
        [2**31],
        [2**70],
        [1.0],
        ["1"],
        [0, 2],
        [2, 0],
        [1, 10**9],
        [[0.5]],
        [[float("inf")]],
    ),
    *("The capital of Spain is", "the " * 3000, list(range(500)), [1] * 5000),
)
_TYPED: tuple[tuple[Any, Any], ...] = (
    (datetime.date(2024, 1, 1), pa.date32()),
    (datetime.date(2024, 1, 1), pa.date64()),
    (2**30, pa.date32()),
    (1, pa.timestamp("ns")),
    (2**62, pa.timestamp("s")),
    (-(2**62), pa.timestamp("ms", "Europe/Rome")),
    (7, pa.timestamp("us", "+01:00")),
    (7, pa.time64("ns")),
    (2**62, pa.duration("s")),
    (decimal.Decimal("1.50"), pa.decimal128(5, 2)),
    (decimal.Decimal(10) ** 60, pa.decimal256(70, 2)),
    (b"\xff\x00", pa.binary()),
    (b"ab", pa.binary(2)),
    (b"\xff", pa.large_binary()),
    ("a", pa.dictionary(pa.int8(), pa.string())),
    ("a", pa.large_string()),
    ("a", pa.string_view()),
    ([1], pa.large_list(pa.int8())),
    ([1, 2], pa.list_(pa.int32(), 2)),
    ([("a", 1)], pa.map_(pa.string(), pa.int32())),
    ([("a", 1), ("a", 2)], pa.map_(pa.string(), pa.int32())),
    ({"a": b"x"}, pa.struct([("a", pa.binary())])),
    ({"a": 1}, pa.struct([("a", pa.int8()), ("b", pa.list_(pa.date32()))])),
    (1.5, pa.float16()),
    (2**64 - 1, pa.uint64()),
    (None, pa.null()),
    ([[[[1]]]], pa.list_(pa.list_(pa.list_(pa.list_(pa.uint8()))))),
    ("1", pa.string()),
    (3, pa.int8()),
    (3.0, pa.float64()),
    (True, pa.bool_()),
)
_KINDS = (*("csv", "jsonl", "parquet") * 6, "tsv", "json", "CSV", "Parquet")


def mutants(seed: int, num: int) -> Iterator[Mutant]:
    """`num` studies that name a pairs file."""
    for number in range(num):
        draw = random.Random(f"pairs/{seed}/{number}")
        kind = draw.choice(_KINDS)
        rows = _rows(draw)
        if kind.lower() in ("csv", "tsv"):  # where a label is text, which token ids cannot have
            rows = [{name: value for name, value in row.items() if value != 1} for row in rows]
        told = [_change(draw, rows) for _ in range(draw.choice((0, 1, 1, 2, 3)))]
        data = _parquet(draw, rows, told) if kind.lower() == "parquet" else _text(draw, kind, rows)
        if draw.random() < 0.15:
            told.append(_spoil(draw, told, data := bytearray(data)))
        study = _WORDS if isinstance(rows[0].get("base"), str) else _STUDY
        study = study.replace(
            "WHERE", draw.choice((*("true",) * 6, "kind = 'a'", "kind IS NULL", "label > 1"))
        )
        files = {"study.yaml": study.replace("PAIRS", f"pairs.{kind}").encode(), f"pairs.{kind}": bytes(data)}
        yield Mutant(f"{number} {kind}: {'; '.join(told)}", files)


def _rows(draw: random.Random) -> list[dict[str, Any]]:
    count = draw.choice((1, 2, 5))
    if draw.random() < 0.5:
        words = {
            "base": "The capital of Spain is",
            "source": "The capital of Italy is",
            "base_label": " Madrid",
        }
        return [{**words, "label": " Rome", "kind": "ab"[n % 2]} for n in range(count)]
    return [
        {"base_ids": [1, n % 9, 3], "source_ids": [4, 2, 3], "label": 1, "kind": "a"} for n in range(count)
    ]


def _change(draw: random.Random, rows: list[dict[str, Any]]) -> str:
    row = draw.choice(rows)
    key = draw.choice(list(row) or ["base"])
    match draw.randrange(6):
        case 0:
            name = draw.choice(_NAMES)
            for one in rows if draw.random() < 0.7 else (row,):
                one[name] = one.pop(key, None)
            return f"{key} is called {name[:20]!r}"
        case 1 | 2:
            row[key] = draw.choice(_VALUES)
            return f"{key} {row[key]!r:.40}"
        case 3 | 4:
            name, value = draw.choice(_NAMES), draw.choice(_VALUES)
            for one in rows if draw.random() < 0.7 else (row,):
                one[name] = value
            return f"more: {name[:20]!r} {value!r:.40}"
    row.pop(key, None)
    return f"without {key}"


def _text(draw: random.Random, kind: str, rows: list[dict[str, Any]]) -> bytes:
    if kind in ("jsonl", "json"):
        lines = [json.dumps(row, ensure_ascii=draw.random() < 0.5) for row in rows]
        text = (
            "[" + ",".join(lines) + "]" if kind == "json" or draw.random() < 0.05 else "\n".join(lines) + "\n"
        )
        if draw.random() < 0.1:
            text = text.replace("{", '{"kind": 1, "kind": 2, ', 1)
        return text.encode("utf-8", "surrogatepass")
    names = list(dict.fromkeys(name for row in rows for name in row))
    names += names[:1] * (draw.random() < 0.05)
    out = io.StringIO(newline="")
    quoting = draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.writer(
        out, delimiter="\t" if kind == "tsv" else draw.choice("," * 20 + ";\t|"), quoting=quoting
    )
    writer.writerow(names)
    for row in rows:
        fields = [row.get(name) for name in names]
        writer.writerow([f if isinstance(f, str) else "" if f is None else _shown(f) for f in fields])
    return out.getvalue().encode("utf-8", "surrogatepass")


def _shown(value: Any) -> str:
    return json.dumps(value)


def _parquet(draw: random.Random, rows: list[dict[str, Any]], told: list[str]) -> bytes:
    columns: dict[str, pa.Array] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
            pa.field(name, columns[name].type)
        except (pa.ArrowException, OverflowError, UnicodeError):
            columns[name] = pa.array([repr(row.get(name)) for row in rows])
    for _ in range(draw.choice((0, 1, 2, 4))):
        value, kind = draw.choice(_TYPED)
        name = draw.choice(("when", "kind", "label", "base", "span.x", "iia", *_NAMES))
        try:
            columns[name] = pa.array([value] * len(rows), kind)
        except (pa.ArrowException, OverflowError, TypeError):
            columns[name] = pa.array([value] * len(rows), pa.int64()).view(kind)
        told.append(f"{name[:20]!r} of {kind}")
    names = [name.encode("utf-8", "replace").decode() for name in columns]
    sink = io.BytesIO()
    try:
        pq.write_table(pa.table(list(columns.values()), names), sink)
    except (pa.ArrowException, OSError):
        pq.write_table(pa.table({"base": ["a"]}), sink)
    return sink.getvalue()


def _spoil(draw: random.Random, told: list[str], data: bytearray) -> str:
    """Change bytes in place."""
    match draw.randrange(8):
        case 0:
            for _ in range(draw.choice((1, 3, 30))):
                if data:
                    data[draw.randrange(len(data))] = draw.randrange(256)
            return "bytes"
        case 1:
            del data[draw.randrange(len(data) + 1) :]
            return "cut"
        case 2:
            data[:0] = draw.choice(
                (b"\xef\xbb\xbf", b"\xff\xfe", b"\n\n", b"sep=;\n", b"PK\x03\x04", b"\x1f\x8b", b"# x\n")
            )
            return "another beginning"
        case 3:
            data[:] = (
                bytes(data).decode("utf-8", "replace").encode(draw.choice(("utf-16", "utf-16-le", "utf-32")))
            )
            return "another encoding"
        case 4:
            data[:] = bytes(data).replace(b"\n", draw.choice((b"\r\n", b"\r", b"\n\n", b"\n,,\n", b" ")))
            return "line ends"
        case 5:
            data[:] = data * draw.choice((0, 2))
            return "nothing, or twice"
        case 6:
            data += draw.choice(
                (b'"', b'\n"', b"\xe9", b"\xed\xa0\x80", b"\n[1]\n", b"\nnull\n", b"\x00" * 9, b"\n3\n")
            )
            return "another end"
    data[:] = bytes(data).replace(b'"', draw.choice((b"'", b"", b'""')))
    return "quotes"
