"""Promise: an error that planning finds names the line that says it: the block's own, else the study's."""

from pathlib import Path

import pytest

from studies import Study, load_study
from studies.yaml import read_yaml

TEXT = """study: small
model: gpt2
site: mlp_output
pairs:
  - {base: mlp_output, source: b, label: c}
sweep:
  - {layer: 0, position: -1}
  - layer: 0
    position: -1
    site: mlp_output
  - {sites: [block_output,
             block_input], layer: 0, position: -1}
  - units:
      - {site: query_output, layer: 1, position: -1, head: 1,
         from: {run: source, site: key_output}}
"""


@pytest.mark.parametrize(
    ("block", "word", "line"),
    [
        (0, "mlp_output", 3),
        (1, "mlp_output", 10),
        (2, "block_input", 12),
        (3, "key_output", 15),
        (3, "nowhere", 13),
        (0, "nowhere", 7),
    ],
)
def test_a_word_is_found_in_its_block_then_in_the_study(
    block: int, word: str, line: int, tmp_path: Path
) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    assert load_study(path).line_of(block, word) == f"{path}:{line}"
    assert load_study(TEXT).line_of(block, word) == f"<text>:{line}"


def test_where_a_study_was_read_from_is_no_part_of_it() -> None:
    read = load_study(TEXT)
    again = load_study(read.to_yaml())
    made = Study.model_validate(read_yaml(read.to_yaml()).data)
    assert read == again == made
    assert made.line_of(0, "mlp_output") is None
    assert read.model_copy(update={"label_tokens": "first"}).line_of(1, "mlp_output") == "<text>:10"
