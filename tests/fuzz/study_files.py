"""Study files of which nobody would think: those that there are, with values, keys, text or bytes changed.

Everything comes from one seed: the same seed and number give the same bytes, on every machine.
"""

__all__ = ["Mutant", "mutants"]

import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
_TOKEN = "@@odd@@"
"""Stands for raw YAML until the rest is written."""


class Mutant(NamedTuple):
    """A file that somebody might have written."""

    what: str
    """What was changed."""
    files: dict[str, bytes]
    """By name; ``study.yaml`` is one of them."""


ODD = (
    *(
        "null",
        "~",
        "true",
        "off",
        '""',
        '" "',
        "''",
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "{'': 1}",
        "[null]",
        "0",
        "-1",
    ),
    *(
        "1",
        "1.5",
        "-0.0",
        ".nan",
        ".inf",
        "-.inf",
        "1e400",
        "1e-400",
        "1" * 30,
        "-" + "9" * 5000,
        "0x" + "f" * 40,
    ),
    *(
        "0o777777777777777777777777",
        "9223372036854775808",
        "18446744073709551616",
        "2147483648",
        "65536",
        "257",
    ),
    *(
        '"0:1000000000"',
        '"5:2"',
        '"0:0"',
        '":"',
        '"-1:"',
        '"$layer"',
        '"$layer+99999999999999"',
        '"$"',
        '"$$x"',
    ),
    *(
        '"R[0:16]"',
        '"R["',
        '"R[-1:]"',
        '"a.b.c"',
        '"a..b"',
        '"a.b.c:input"',
        '"../../../x"',
        '"/etc/passwd"',
        "all",
    ),
    *(
        '"os:system"',
        '"beside:ran"',
        '"subprocess:call"',
        '"builtins:exec"',
        '"a:b:c"',
        '":"',
        '"spans.last"',
    ),
    *(
        '"\\0"',
        '"a\\0b"',
        '"\\ud800"',
        '"\\u202e"',
        '"\\e[31m"',
        '"\\u00e9"',
        '"e\\u0301"',
        '"\\U0001F600"',
        '"%s%n"',
    ),
    *(
        '"{}"',
        '"${HOME}"',
        '"~"',
        '"~root"',
        '"\'; DROP TABLE pairs; --"',
        '"random() < 0.5"',
        '"(SELECT 1)"',
    ),
    *(
        "2024-01-01",
        "12:30:45",
        "1_000",
        "0b1",
        "!!binary aGVsbG8=",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!int '7'",
    ),
    *(
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "!x y",
        "!!timestamp 2024-01-01",
    ),
    *(
        "!!float 'x'",
        "!!str 1",
        "!!null ''",
        "!!bool maybe",
        "*nowhere",
        "&a [*a]",
        "&a {b: *a}",
        "[&x 1, *x, *x]",
    ),
    *(
        "{<<: {a: 1}}",
        "{? [1, 2] : 3}",
        "{? {a: 1} : 2}",
        "{.nan: 1}",
        "{1: 2, 1.0: 3}",
        "{null: 1}",
        "{a: 1, a: 2}",
    ),
    *('"' + "n" * 300 + '"', '"' + "n" * 100_000 + '"', "[" * 100 + "]" * 100, "[" * 3000 + "]" * 3000),
    *("{a: " * 500 + "1" + "}" * 500, "[" + "0, " * 20_000 + "0]", "[" + "{}, " * 500 + "{}]"),
    *(
        '"nan"',
        '"both_correct"',
        "vanilla",
        "source",
        "zero",
        "{noise: 3}",
        "{noise: -1}",
        "{noise: 1e308}",
        "mean",
    ),
    *(
        "{run: source, layer: 99}",
        "{fit: R, scale: .nan}",
        '{name: causal, model: {ref: "os:system"}}',
        "zoo:gpt",
    ),
)
"""Raw YAML in the place of a value."""

BOMB = "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9 if before else ['x'] * 9)}]\n"
    for before, name in zip(["", *"abcdefgh"], "abcdefghi", strict=True)
)
LINES = (
    *("\t- x\n", "---\n", "...\n", "%YAML 1.1\n", "%TAG ! tag:x,2000:\n", "<<: {study: t}\n", "<<: *none\n"),
    *(
        "? [a, b]\n: c\n",
        "? {a: b}\n",
        "key without colon\n",
        "- item\n",
        "\x00\n",
        "\x07: 1\n",
        "\u2028: 1\n",
    ),
    *('"\\ud800": 1\n', "1: 2\n", "null: 1\n", ".nan: 1\n", "true: x\n", "'': 1\n", "study: again\n", BOMB),
    *(
        "a: &a\n  b: *a\n",
        "x: |\n  " + "y" * 5000 + "\n",
        "x: !!binary |\n  R0lGODlhDAAMAIQAAP=\n",
        "@: 1\n",
        "`: 1\n",
    ),
    *(
        "x: 'unclosed\n",
        'x: "unclosed\n',
        "x: [1, 2\n",
        "x: {a: 1\n",
        "\ufeffx: 1\n",
        "x: " + "- " * 2000 + "1\n",
    ),
    *(
        "? " * 1500 + "\n",
        "x: " + "&a " * 3 + "1\n",
        "x: *\n",
        "x: !<\n",
        "trust_remote_code: true\n",
        "units: []\n",
    ),
)
"""Lines put somewhere in between."""

ENCODINGS: Sequence[Callable[[str], bytes]] = (
    lambda text: text.encode("utf-16"),
    lambda text: text.encode("utf-16-le"),
    lambda text: text.encode("utf-32"),
    lambda text: b"\xef\xbb\xbf" + text.encode(),
    lambda text: text.replace("\n", "\r\n").encode(),
    lambda text: text.replace("\n", "\r").encode(),
    lambda text: text.encode() + b"\xed\xa0\x80: 1\n",
    lambda text: text.encode() + b"x: \xff\xfe\n",
    lambda text: text.encode()[: len(text) // 2],
    lambda text: b"",
    lambda text: b"\x00" * 100,
    lambda text: b"PK\x03\x04" + text.encode(),
    lambda text: text.encode() * 2,
    lambda text: text.encode("cp1252", "replace") + b"# \xe9\n",
    lambda text: text.replace("  ", "\t").encode(),
)


def mutants(seed: int, num: int, model: str) -> Iterator[Mutant]:
    """`num` files; where the study names a model that has to be fetched, it is mostly `model` instead."""
    texts = _texts()
    for number in range(num):
        draw = random.Random(f"{seed}/{number}")
        name, text = draw.choice(texts)
        # Models that would be fetched, and pairs by the ten thousand, take minutes and find nothing.
        text = re.sub(r"(num_(?:train|test|pairs): )\d{3,}", r"\g<1>40", text)
        text = re.sub(r"\b(smollm2-135m|gpt2-small|pythia-\d+m)\b", model, text)
        make = draw.choices((_structure, _lines, _bytes), (8, 3, 1))[0]
        what, data = make(draw, text)
        yield Mutant(f"{number} {name}: {what}", {"study.yaml": data})


def _texts() -> list[tuple[str, str]]:
    found = [(path.stem, path.read_text("utf-8")) for path in sorted((ROOT / "studies").glob("*.yaml"))]
    examples = (ROOT / "tests" / "studies" / "examples.yaml").read_text("utf-8")
    found += [
        (f"example{n}", one) for n, one in enumerate(re.split(r"^---.*\n", examples, flags=re.MULTILINE))
    ]
    return [*found, *((f"small{n}", text) for n, text in enumerate(_SMALL))]


_SMALL = (
    """study: small
model: {ref: "zoo:gpt", width: 8, num_layers: 2, num_heads: 2, vocab_size: 10, seed: 0}
pairs:
  - {base_ids: [1, 2, 3], source_ids: [4, 2, 3], base_label: 1, label: 2, kind: a}
  - {base_ids: [2, 2, 3], source_ids: [4, 5, 3], base_label: 3, label: 4, kind: b}
fits: {R: {method: random_rotation, rank: 4}, v: {method: mean}}
seeds: "0:2"
sweep:
  - {name: one, sites: [block_output, mlp_output], layers: all, positions: all}
  - {name: two, site: block_output, layer: 0, position: -1, subspaces: [R, "R[0:2]"], where: kind = 'a'}
  - {name: three, for: {at: [0, 1]}, units: [{site: block_output, layer: $at, position: 0, from: {noise: 2}},
      {site: mlp_output, layer: $at, position: -1, intervention: collect}]}
plots: {heat: {kind: heatmap, x: base_position, y: layer, fill: iia, where: "site = 'block_output'"}}
""",
    """study: words
model: MODEL
pairs:
  - {base: The capital of Spain is, source: The capital of Italy is, base_label: " Madrid", label: " Rome",
     span.country: Spain, source.span.country: Italy}
screen: attribution
metrics: [logit_diff, iia]
sweep:
  - {sites: [mlp_output, attention_input], layers: "0:2", positions: [country.last, -1]}
  - {site: head_output, layers: all, heads: all, position: -1, intervention: skip}
""",
)


def _structure(draw: random.Random, text: str) -> tuple[str, bytes]:
    """Some values or keys of the data swapped, added, misspelt or left out."""
    data = yaml.load(text.replace("MODEL", "./tiny"), Loader=yaml.BaseLoader)
    raws: list[str] = []
    told = []
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        places = list(_places(data))
        if not places:
            break
        holder, key = draw.choice(places)
        told.append(_change(draw, holder, key, raws))
    written = yaml.dump(data, sort_keys=False, allow_unicode=True, width=10_000)
    for number, raw in enumerate(raws):
        for quoted in (f"'{_TOKEN}{number}'", f'"{_TOKEN}{number}"', f"{_TOKEN}{number}"):
            written = re.sub(re.escape(quoted) + r"(?!\d)", lambda _, raw=raw: raw, written)
    return "; ".join(told), _plain_scalars(written).encode("utf-8", "surrogatepass")


def _plain_scalars(written: str) -> str:
    """Numbers and words without the quotes that text would have: the base loader knows text alone."""
    return re.sub(r"'(-?\d+(?:\.\d+)?(?:e-?\d+)?|true|false|null)'", r"\1", written)


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield data, key
        yield from _places(data[key])


def _change(draw: random.Random, holder: Any, key: Any, raws: list[str]) -> str:
    def odd() -> str:
        raws.append(draw.choice(ODD))
        return f"{_TOKEN}{len(raws) - 1}"

    shown = repr(holder[key])[:30]
    match draw.randrange(9):
        case 0 | 1 | 2 | 3:
            holder[key] = odd()
            return f"{key} {shown} → {raws[-1][:40]}"
        case 4 if isinstance(holder, dict):
            letters = list(str(key)) or ["x"]
            at = draw.randrange(len(letters))
            letters[at] = draw.choice(("", letters[at] * 2, letters[at].upper(), " ", "é"))
            holder["".join(letters)] = holder.pop(key)
            return f"key {key} → {''.join(letters)!r}"
        case 5 if isinstance(holder, dict):
            holder[
                draw.choice(("where", "seeds", "for", "units", "path", "name", "odd", "layers", "method"))
            ] = odd()
            return f"beside {key}: {raws[-1][:40]}"
        case 6:
            del holder[key]
            return f"without {key}"
        case 7:
            holder[key] = [holder[key]] * draw.choice((1, 2, 50))
            return f"{key} as a list"
        case 8 if isinstance(holder, list):
            holder.append(odd())
            return f"more beside {key}: {raws[-1][:40]}"
    holder[key] = {"a": holder[key]}
    return f"{key} as a mapping"


def _lines(draw: random.Random, text: str) -> tuple[str, bytes]:
    """Lines put in, left out or said twice."""
    lines = text.replace("MODEL", "./tiny").splitlines(keepends=True)
    at = draw.randrange(len(lines) + 1)
    match draw.randrange(4):
        case 0 | 1:
            line = draw.choice(LINES)
            indent = " " * draw.choice((0, 0, 2, 4))
            lines.insert(at, indent + line)
            told = f"line {at}: {line[:30]!r}"
        case 2:
            lines[at:at] = lines[at : at + 2]
            told = f"line {at} twice"
        case _:
            del lines[at : at + 1]
            told = f"without line {at}"
    return told, "".join(lines).encode("utf-8", "surrogatepass")


def _bytes(draw: random.Random, text: str) -> tuple[str, bytes]:
    """Another encoding, or bytes that are none."""
    text = text.replace("MODEL", "./tiny")
    if draw.random() < 0.5:
        number = draw.randrange(len(ENCODINGS))
        return f"encoding {number}", ENCODINGS[number](text)
    data = bytearray(text.encode())
    for _ in range(draw.choice((1, 3, 20))):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return "bytes", bytes(data)
