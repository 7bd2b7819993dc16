"""Promise: in half precision two tiers may choose differently, and every row where they do is a near tie."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch
from families import small
from tiny import VOCAB, pairs, swap

from orchestrator.query.join_tables import tie_bound
from orchestrator.query.view_sql import near_tie
from workers.engine.batch import HOOKED, RESUMED
from workers.engine.engine import Batch, Engine
from workers.model.loading import LoadedModel

DTYPE = "bfloat16"
BLOCKS = 8


def model_of_twins() -> LoadedModel:
    """Wide enough for shapes to show in bfloat16; and each token has a twin with nearly its logit."""
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": BLOCKS}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64}
    model = small("llama", dtype=torch.bfloat16, **sizes, **heads)
    head = model.module.get_submodule("lm_head").weight
    half = VOCAB // 2
    noise = torch.randn(half, head.shape[1], generator=torch.Generator().manual_seed(0))
    head[half : 2 * half] = head[:half] + (0.02 * noise).to(head.dtype)
    return model


def test_rows_that_tiers_predict_differently_are_all_marked() -> None:
    model, some = model_of_twins(), pairs(16, lengths=(6, 6))
    cells = [
        swap(f"model.layers.{n}.mlp", None, (token,), read=5) for n in range(BLOCKS) for token in (3, 4, 5)
    ]
    batch = Batch(cells=list(enumerate(cells)), pairs=some, families=("logits",))
    outcomes = [
        Engine(model, capture_budget_bytes=1 << 28, shortcut=False, resume=resume).run(batch)
        for resume in (True, False)
    ]
    assert [set(outcome.tiers) for outcome in outcomes] == [{RESUMED}, {HOOKED}]
    resumed, whole = (outcome.columns for outcome in outcomes)
    other = resumed["pred_id"] != whole["pred_id"]
    if not other.any():
        pytest.skip("on this machine the tiers agree to the bit")
    for columns in (resumed, whole):
        assert marked(columns, DTYPE)[other].all()
        assert not marked(columns, "float32")[columns["margin"] > 0].any()


def marked(columns: dict[str, np.ndarray], dtype: str) -> np.ndarray:
    """Which rows are near ties, were they of a model of this dtype."""
    rows = pa.table({name: columns[name] for name in ("margin", "pred_logit")})
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        sql = f"SELECT {near_tie('r', tie_bound('l'))} AS tie FROM rows r, (SELECT '{dtype}' AS dtype) l"
        found: np.ndarray = connection.sql(sql).to_arrow_table()["tie"].to_numpy()
    return found
