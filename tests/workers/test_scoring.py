"""Promise: the metric columns are what their definitions say, computed in float32 whatever the logits' dtype,
and without a value where there is no label."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workers.engine.batch import NO_ID, empty_columns
from workers.engine.scoring import Labels, divergence, score, variation
from workers.metrics import raw_metrics

VOCAB = 7
CPU = torch.device("cpu")
logit = st.floats(-30, 30, width=32)
ids = st.lists(st.integers(0, VOCAB - 1), max_size=3, unique=True)
rows = st.lists(st.tuples(st.lists(logit, min_size=VOCAB, max_size=VOCAB, unique=True), ids, ids), min_size=1)


def scored(logits: Tensor, labels: list[list[int]], base_labels: list[list[int]]) -> dict[str, Tensor]:
    return score(logits, Labels.of(labels, CPU), Labels.of(base_labels, CPU))


@settings(max_examples=50, deadline=None)
@given(rows)
def test_columns_equal_their_definitions(drawn: list[tuple[list[float], list[int], list[int]]]) -> None:
    logits = torch.tensor([row for row, _, _ in drawn])
    columns = scored(logits, [one for _, one, _ in drawn], [two for _, _, two in drawn])
    for number, (row, label, base_label) in enumerate(drawn):
        ranked = sorted(range(VOCAB), key=lambda token: -row[token])
        assert columns["pred_id"][number] == ranked[0]
        assert float(columns["pred_logit"][number]) == row[ranked[0]]
        assert float(columns["margin"][number]) == pytest.approx(row[ranked[0]] - row[ranked[1]], abs=1e-5)
        total = math.log(sum(math.exp(value) for value in row))
        assert float(columns["logsumexp"][number]) == pytest.approx(total, abs=1e-5)
        for name, any_of in (("label", label), ("base_label", base_label)):
            value, rank = float(columns[f"{name}_logit"][number]), int(columns[f"{name}_rank"][number])
            if any_of:
                assert value == pytest.approx(math.log(sum(math.exp(row[t]) for t in any_of)), abs=1e-5)
                assert rank == min(ranked.index(t) for t in any_of)
            else:
                assert math.isnan(value)
                assert rank == NO_ID


LOGITS = torch.tensor(
    [
        [0.5, 3.0, -1.0, 2.5, 0.0, 1.0, -4.0],
        [1.0, 1.0, 1.0, 4.0, 4.0, -2.0, 0.25],  # the first choice and the second are equal
        [-3.0, 0.5, 2.0, 2.0, -1.5, 6.0, 2.0],
        [-1.0, -2.5, -0.5, -4.0, -3.0, -6.0, -2.0],  # all below 0
    ]
)
LABELS = [[3, 4], [2], [], [6]]
BASE_LABELS = [[], [0, 5], [6], [3, 1]]


def test_each_column_of_a_table_is_what_its_definition_gives() -> None:
    """Nothing is drawn, so that what is noticed today is noticed tomorrow."""
    columns = scored(LOGITS, LABELS, BASE_LABELS)
    exact = LOGITS.double()
    total = exact.exp().sum(1).log()
    torch.testing.assert_close(columns["logsumexp"].double(), total, rtol=0, atol=1e-5)
    assert columns["pred_logit"].tolist() == [3.0, 4.0, 6.0, -0.5]
    assert columns["margin"].tolist() == [0.5, 0.0, 4.0, 0.5]
    assert columns["pred_id"][[0, 2, 3]].tolist() == [1, 5, 2] and columns["pred_id"][1] in (3, 4)
    assert columns["label_rank"].tolist() == [1, 2, NO_ID, 2]
    assert columns["base_label_rank"].tolist() == [NO_ID, 2, 1, 3]
    for name, labels in (("label_logit", LABELS), ("base_label_logit", BASE_LABELS)):
        wanted = [
            math.log(sum(math.exp(row[k]) for k in ids)) if ids else math.nan
            for row, ids in zip(LOGITS.tolist(), labels, strict=True)
        ]
        assert columns[name].tolist() == pytest.approx(wanted, abs=1e-6, nan_ok=True)


def test_each_row_diverges_from_its_own_reference_and_not_the_other_way_round() -> None:
    which = torch.tensor([1, 0, 3, 2])
    p, q = (LOGITS.double().softmax(1)[rows] for rows in (which, torch.arange(4)))
    kl, tv = divergence(LOGITS, which, LOGITS), variation(LOGITS, which, LOGITS)
    wanted = (p * (p / q).log()).sum(1)
    torch.testing.assert_close(kl.double(), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(tv.double(), (p - q).abs().sum(1) / 2, rtol=0, atol=1e-5)
    assert (wanted - (q * (q / p).log()).sum(1)).abs().min() > 0.01


def test_the_probability_of_any_of_several_labels_is_the_sum_of_theirs() -> None:
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(0))
    columns = scored(logits, [[1, 4]] * 4, [[]] * 4)
    got = (columns["label_logit"] - columns["logsumexp"]).exp()
    torch.testing.assert_close(got, logits.softmax(-1)[:, [1, 4]].sum(-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_reduced_in_float32(dtype: torch.dtype) -> None:
    logits = (torch.randn(3, 500, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
    labels = Labels.of([[3]] * 3, CPU)
    exact = logits.double()
    columns = score(logits, labels, labels)
    torch.testing.assert_close(columns["logsumexp"].double(), exact.logsumexp(-1), rtol=1e-6, atol=1e-6)
    which = torch.tensor([2, 0, 1])
    p = exact[which].log_softmax(-1)
    torch.testing.assert_close(
        divergence(logits, which, logits).double(),
        (p.exp() * (p - exact.log_softmax(-1))).sum(-1),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_run_does_not_diverge_from_itself_and_impossible_tokens_add_nothing() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 2.0], [0.0, 0.0, 0.0]])
    which = torch.tensor([0, 1])
    assert divergence(logits, which, logits).tolist() == [0.0, 0.0]
    assert torch.isfinite(divergence(logits, torch.tensor([0]), logits[1:])).all()


def test_total_variation_is_half_the_distance_of_the_distributions() -> None:
    reference = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).log()
    logits = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.0, 0.5, 0.5]]).log() + 3.0
    found = variation(reference, torch.tensor([0, 0, 1]), logits.half())
    torch.testing.assert_close(found, torch.tensor([0.25, 0.0, 1.0]), rtol=0, atol=1e-3)


def test_a_model_of_one_class_is_scored_too() -> None:
    labels = Labels.of([[0]], CPU)
    columns = score(torch.tensor([[2.0]]), labels, labels)
    assert (columns["pred_id"].tolist(), columns["margin"].tolist()) == ([0], [0.0])


def test_many_rows_are_scored_in_blocks_that_do_not_show() -> None:
    logits = torch.randn(40, 60_000, generator=torch.Generator().manual_seed(0))
    labels = Labels.of([[row] for row in range(40)], CPU)
    together = score(logits, labels, labels)
    alone = [score(logits[row : row + 1], labels[row : row + 1], labels[row : row + 1]) for row in range(40)]
    for name, column in together.items():
        torch.testing.assert_close(column, torch.cat([one[name] for one in alone]))
    which = torch.arange(40) % 3  # three do not fit evenly into the blocks
    for compare in (variation, divergence):
        found = compare(logits[:3], which, logits)
        each = [compare(logits[:3], which[n : n + 1], logits[n : n + 1]) for n in range(40)]
        torch.testing.assert_close(found, torch.cat(each))


def test_empty_columns_are_those_that_scoring_fills() -> None:
    labels = Labels.of([[1]], CPU)
    columns = score(torch.randn(1, VOCAB), labels, labels)
    assert columns.keys() == raw_metrics(["logits"]).keys()
    empty = empty_columns(("logits", "kl"), 2)
    assert empty.keys() == columns.keys() | {"kl_base", "kl_source", "tv_base"}
    for name, column in columns.items():
        assert empty[name].dtype == column.numpy().dtype
    assert np.isnan(empty["kl_base"]).all()
    assert (empty["pred_id"] == NO_ID).all()
