"""Promise: a study file that is none, or holds what no study can have, is refused with its line, at once."""

import os
from pathlib import Path

import pytest

from studies import load_study
from studies.load import stored_study
from workers.errors import StudyError

STUDY = """study: s
model: {ref: "zoo:gpt", width: 8, num_layers: 2, num_heads: 2, vocab_size: 10, seed: 0}
pairs: [{base_ids: [1, 2], own: 99999999999999999999}]
sweep: [{site: block_output, layer: 0, position: 0}]
"""


def refused(folder: Path, data: bytes) -> str:
    path = folder / "s.yaml"
    path.write_bytes(data)
    with pytest.raises(StudyError) as caught:
        load_study(path)
    return str(caught.value).replace(str(path), "s.yaml")


def test_a_right_file_is_read_with_a_byte_order_mark_too(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(STUDY, "utf-8-sig")
    assert load_study(tmp_path / "s.yaml").study == "s"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (STUDY.encode("utf-16"), "s.yaml:1: this is UTF-16; save it as UTF-8"),
        (STUDY.encode() + b"# \xe9", "s.yaml:5: byte 3 of the line, 0xe9, is no UTF-8"),
        (b"\x00" * 20, "s.yaml:1: this is no text in UTF-8"),
        (
            STUDY.replace("layer: 0", f"layer: {10**25}").encode(),
            "s.yaml:4: sweep[0].layer: 10000000000000000000000000 is not allowed here",
        ),
        (
            STUDY.replace("study: s", 'study: "a\\0b"').encode(),
            "s.yaml:1: study: 'a\\x00b' is not allowed here; allowed: text without zero characters",
        ),
        (
            STUDY.replace("zoo:gpt", "n" * 300).encode(),
            "allowed: a path of at most 4000 letters, at most 255 between two slashes",
        ),
        (
            STUDY.replace("own:", "base_lable:").encode(),
            "s.yaml:3: pairs[0].base_lable: the column 'base_lable' is none of ours",
        ),
    ],
    ids=["utf-16", "latin-1", "zeros", "number", "zero character", "long path", "pairs"],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, data: bytes, message: str) -> None:
    assert message in refused(tmp_path, data)


def test_several_odd_values_are_told_at_once(tmp_path: Path) -> None:
    text = STUDY.replace("layer: 0", f"layer: {2**63}").replace("position: 0", 'position: "\\0"')
    lines = refused(tmp_path, text.encode()).splitlines()
    assert [line.partition(": ")[2].partition(": ")[0] for line in lines] == [
        "sweep[0].layer",
        "sweep[0].position",
    ]


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, message in (
        (tmp_path / "pipe.yaml", "this is a pipe, a socket or a device"),
        (tmp_path, "this is a folder"),
        ("n" * 300, "File name too long"),
        ("~nobody-at-all/s.yaml", "the study cannot be read"),
    ):
        with pytest.raises(StudyError, match=message):
            load_study(str(name))


def test_a_planned_study_is_read_whatever_its_pairs_were_called() -> None:
    """Pairs of before are in the plan; pictures of it need them no more."""
    found = stored_study(STUDY.replace("own:", "base_lable:"), "study.yaml")
    assert found.study == "s"
    assert found.pairs == "planned.jsonl"
