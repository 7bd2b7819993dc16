"""Promise: one table says what each metric is called, kept as and made of, and everything else follows it."""

import re
from pathlib import Path

import pytest
import torch

from workers.engine.scoring import Labels, score, score_labels
from workers.metrics import (
    DERIVED,
    LABELS,
    LOGITS,
    MEASURABLE,
    METRIC_FAMILIES,
    OBSERVED,
    RAW,
    Metric,
    documented,
    families_in,
    raw_metrics,
)

METRICS = (*OBSERVED, *DERIVED)
FILLED = {"{label}": "r.label_logit", "{base_label}": "r.base_label_logit", "{is_label}": "r.pred_id"}


def test_names_are_of_one_metric_each() -> None:
    for names in ([raw.name for raw in RAW], [metric.name for metric in METRICS]):
        assert len(set(names)) == len(names)
    assert list(MEASURABLE) == list(dict.fromkeys(MEASURABLE)) and {*MEASURABLE.values()} < {*METRIC_FAMILIES}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_made_of_what_its_family_holds(metric: Metric) -> None:
    """Else it would be NULL in a study that asks for it alone."""
    sql = metric.sql
    for placeholder, raw in FILLED.items():
        sql = sql.replace(placeholder, raw)
    read = {*re.findall(r"\br\.(\w+)", sql)}
    assert read <= raw_metrics(families_in([metric.family or LABELS])).keys()
    assert (metric.family is not None) >= bool(read)


def test_scoring_fills_the_columns_of_its_families() -> None:
    labels, logits = Labels.of([[1]], torch.device("cpu")), torch.randn(1, 7)
    for scored, family in ((score, LOGITS), (score_labels, LABELS)):
        found = scored(logits, labels, labels)
        assert {name: str(column.dtype).removeprefix("torch.") for name, column in found.items()} == {
            name: raw.dtype for name, raw in raw_metrics([family]).items()
        }


def test_the_page_shows_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "views.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- metrics -->\n")[2].partition("\n<!-- /metrics -->")[0]
    assert shown == documented()
