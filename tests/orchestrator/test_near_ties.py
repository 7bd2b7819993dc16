"""Promise: `results` marks the rows whose first choice hangs on the last digits of their model's dtype."""

from pathlib import Path
from typing import Any

import pytest
import small_store
from small_store import make_study

from orchestrator.query.connection import connect
from orchestrator.query.statements import run_query
from orchestrator.store import encode_part

PRED_LOGIT = 8.0
"""Of every row of the small store."""


@pytest.mark.parametrize(
    ("margin", "ties"),
    [
        (1.0, {"float32": False, "float16": False, "bfloat16": False}),
        (PRED_LOGIT * 2**-4, {"float32": False, "float16": False, "bfloat16": True}),
        (PRED_LOGIT * 2**-7, {"float32": False, "float16": True, "bfloat16": True}),
        (0.0, {"float32": True, "float16": True, "bfloat16": True}),
        (None, {"float32": None, "float16": None, "bfloat16": None}),
    ],
)
def test_a_margin_within_the_last_digits_of_the_dtype_is_a_near_tie(
    margin: float | None, ties: dict[str, bool | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(columns: dict[str, Any], families: Any) -> bytes:
        return encode_part({**columns, "margin": [margin] * len(columns["cell"])}, families)

    monkeypatch.setattr(small_store, "encode_part", encode)
    root = make_study(tmp_path / "s", dtypes=tuple(ties))
    found = run_query(connect([root]), "SELECT DISTINCT dtype, near_tie FROM results").fetchall()
    assert dict(found) == ties and len(found) == len(ties)
