"""Promise: each thing that a score rests on is held by a test: take it away, and that test fails."""

from collections.abc import Iterator

import pytest

from tests.mutants import TORCH, Mutant, Nursery, nursery

SCORING, ROUNDS = (f"workers/engine/{name}.py" for name in ("scoring", "rounds"))
TABLE = "workers/test_scoring.py::test_each_column_of_a_table_is_what_its_definition_gives"
DIVERGES = (
    "workers/test_scoring.py::test_each_row_diverges_from_its_own_reference_and_not_the_other_way_round"
)
HALF = "workers/test_scoring.py::test_half_precision_logits_are_reduced_in_float32"
BLOCKS = "workers/test_scoring.py::test_many_rows_are_scored_in_blocks_that_do_not_show"
ROWS = "workers/test_scorer.py::test_every_row_is_scored_by_its_own_pair_and_reads"
ALONE = "workers/test_scorer.py::test_what_labels_get_alone_is_what_they_get_among_all_others"

MUTANTS = {
    "label and base label are taken for each other": Mutant(
        SCORING,
        "self._labels[pairs], self._base_labels[pairs]",
        "self._base_labels[pairs], self._labels[pairs]",
        ROWS,
    ),
    "rows have the labels of another pair": Mutant(
        SCORING, "[job.pair for job in jobs]", "[job.pair for job in reversed(jobs)]", ROWS
    ),
    "the last word of the vocabulary does not count": Mutant(
        SCORING, '"logsumexp": logits.logsumexp(-1)', '"logsumexp": logits[:, :-1].logsumexp(-1)', TABLE
    ),
    "of several labels the best counts alone": Mutant(SCORING, "own.logsumexp(-1)", "own.amax(-1)", TABLE),
    "padding is a label as well": Mutant(SCORING, "masked_fill(~labels.given, -torch.inf)", "clone()", TABLE),
    "tokens that are equal to the label are above it": Mutant(SCORING, "torch.gt(", "torch.ge(", TABLE),
    "a rank is that of the worst label": Mutant(
        SCORING, "own.amax(-1, keepdim=True), out", "own.amin(-1, keepdim=True), out", TABLE
    ),
    "a second choice is never below 0": Mutant(
        SCORING, "logits.scatter(-1, ids, -torch.inf)", "logits.scatter(-1, ids, 0.0)", TABLE
    ),
    "a margin is above the label": Mutant(
        SCORING, '"margin": top[:, 0] - second', '"margin": top[:, 0] - label_logit', TABLE
    ),
    "half precision is reduced as it is": Mutant(
        SCORING, "_score_block(logits[rows].float(),", "_score_block(logits[rows],", HALF
    ),
    "KL goes the other way round": Mutant(
        SCORING,
        "terms = log_p.exp() * (log_p - logits.log_softmax(-1))",
        "terms = logits.softmax(-1) * (logits.log_softmax(-1) - log_p)",
        DIVERGES,
    ),
    "the total variation is not halved": Mutant(
        SCORING, "torch.cat(blocks) / 2)", "torch.cat(blocks))", DIVERGES
    ),
    "an impossible token makes KL no number": Mutant(
        SCORING,
        "terms.masked_fill(log_p == -torch.inf, 0.0).sum(-1)",
        "terms.sum(-1)",
        "workers/test_scoring.py::test_a_run_does_not_diverge_from_itself_and_impossible_tokens_add_nothing",
    ),
    "blocks of rows are compared with the first references": Mutant(
        SCORING, "(p[which[rows]] -", "(p[which[: len(logits[rows])]] -", BLOCKS
    ),
    "KL of blocks of rows is to the first references": Mutant(
        SCORING, "(log_p[which[rows]],", "(log_p[which[: len(logits[rows])]],", BLOCKS
    ),
    "rows are compared with the clean run of another pair": Mutant(
        SCORING, "[which[row] for row in rows]", "[which[rows[-1]] for row in rows]", ROWS
    ),
    "the base is read one token early": Mutant(
        SCORING, 'tokens["base"], job.read', 'tokens["base"], max(job.read - 1, 0)', ROWS
    ),
    "the source is read where the base is": Mutant(
        SCORING, 'tokens["source"], job.source_read', 'tokens["source"], job.read', ROWS
    ),
    "a run is read one token early": Mutant(
        ROUNDS,
        "reads = torch.tensor([[job.read] for job in jobs], device=device)  # [B, 1]",
        "reads = torch.tensor([[max(job.read - 1, 0)] for job in jobs], device=device)",
        ROWS,
    ),
    "labels alone are looked up by their own ids": Mutant(
        SCORING, "self._base_labels = self._base_labels.among(self.ids)", "pass", ALONE
    ),
}


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with nursery(tmp_path_factory.mktemp("mutants") / "copies", TORCH) as made:
        yield made


@pytest.mark.parametrize("name", MUTANTS)
def test_what_a_mutant_changes_stands_there_once(name: str) -> None:
    assert MUTANTS[name].count() == 1


@pytest.mark.night
def test_without_a_change_all_of_these_tests_pass(mutants: Nursery) -> None:
    done = mutants.unchanged({mutant.test for mutant in MUTANTS.values()})
    assert done.status == pytest.ExitCode.OK, done.output


@pytest.mark.night
@pytest.mark.parametrize("name", MUTANTS)
def test_a_change_is_noticed(name: str, mutants: Nursery) -> None:
    done = mutants.changed(MUTANTS[name])
    # The tests ran, and one failed; a file that cannot even be imported gives another status.
    assert done.status == pytest.ExitCode.TESTS_FAILED, done.output
