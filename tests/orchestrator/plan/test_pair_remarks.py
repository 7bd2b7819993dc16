"""Promise: a plan says which labels no pair has, and what columns are called whose names are taken."""

import pyarrow as pa

from orchestrator.plan.pair_remarks import remarks
from orchestrator.plan.tables import Plan


def plan(label_ids: list[list[int]], base_label_ids: list[list[int]], kept: list[bool], *own: str) -> Plan:
    labels = pa.list_(pa.int32())
    inputs = {"label_ids": pa.array(label_ids, labels), "base_label_ids": pa.array(base_label_ids, labels)}
    rows = len(kept)
    return Plan(
        head={},
        tables={
            "inputs": pa.table({**inputs, "kept": kept}),
            "pairs": pa.table({name: ["x"] * rows for name in ("base", "source", *own)}),
            "points": pa.table({name: [0] for name in ("point", "lane", "block", "model", "layer", "site")}),
        },
    )


def test_nothing_is_said_where_nothing_is_out_of_the_ordinary() -> None:
    assert remarks(plan([[1], []], [[2], [3]], [True, True], "kind")) == []


def test_labels_that_no_kept_pair_has_are_told_with_what_is_lost() -> None:
    (line,) = remarks(plan([[], [1]], [[], []], [True, False], "answer"))
    assert line == (
        "no pair has a label or a base_label: iia, flip, prob, base_prob and logit_diff are NULL in every"
        " row; the pairs' other columns are answer"
    )
    (line,) = remarks(plan([[], []], [[1], [1]], [True, True]))
    assert line == "no pair has a label: iia, flip, prob and logit_diff are NULL in every row"
    (line,) = remarks(plan([[1]], [[]], [True]))
    assert line == "no pair has a base_label: flip, base_prob and logit_diff are NULL in every row"


def test_columns_whose_names_are_taken_are_told_with_those_that_they_get() -> None:
    (line,) = remarks(plan([[1]], [[1]], [True], "iia", "layer", "Study", "kind"))
    assert line.startswith("columns of the pairs whose names are taken are, in results, ")
    assert line.endswith('"pair.iia", "pair.layer", "pair.Study"')
