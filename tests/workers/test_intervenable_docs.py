"""Promise: the page for researchers works as written, from its first block to its last."""

import re
from pathlib import Path
from typing import Any

import pytest

from workers.intervene.intervenable import Intervened

PAGE = (Path(__file__).parents[2] / "docs" / "intervenable-model.md").read_text(encoding="utf-8")


@pytest.mark.smollm2
@pytest.mark.timeout(900)
def test_the_page_works_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
    assert isinstance(names["out"], Intervened)
    assert names["net"].top_tokens(names["base"], k=1)[0][0] == "_Madrid"
    assert len(names["units"]) == 1
    # Units that the page makes and does not run.
    rotation, sent, base, source = (names[name] for name in ("rotation", "sent", "base", "source"))
    sy = names["sy"]
    for unit in (
        sy.Unit(
            "block_output", layer=10, position=[1, 2], from_=sy.From("source", layer=8, position=[-2, -1])
        ),
        sy.Unit("model.layers.3.mlp.act_fn", coordinates=sy.Box[2:5, 0:100]),
        sy.Unit("block_output", layer=10, position=3, subspace=rotation["country"]),
        sy.Unit("mlp_output", layer=5, intervention=lambda old, new: 0.5 * (old + new)),
        sy.Unit("query_output", layer=9, head=3, position=-1, from_=sent),
    ):
        logits = names["net"](base, source, units=[unit]).logits
        assert logits.isfinite().all()
