"""Promise: each thing that a resumed run rests on is held by a test: take it away, and that test fails."""

from collections.abc import Iterator

import pytest

from tests.mutants import TORCH, Mutant, Nursery, nursery

FORWARD, BASES, LAYERS, RESUME = (
    *(f"workers/engine/replay/{name}.py" for name in ("forward", "base_cache", "kv_cache")),
    "workers/model/resume.py",
)
AHEAD, CAPTURES, NEEDS, QUEUES, ROUNDS = (
    f"workers/engine/{name}.py"
    for name in ("single_token", "activation_cache", "activation_needs", "queues", "rounds")
)


def replay(test: str) -> str:
    """A test of resumed runs."""
    return f"workers/test_replay.py::test_{test}"


EARLIEST = replay("several_units_and_sources_resume_from_the_earliest[worth-llama]")
EVERY = replay("every_site_position_and_head_resumes[worth-gpt2]")
SPANS = replay("spans_that_differ_by_pair_pooled_sources_and_reads_resume[worth]")
NOISE = replay("noise_is_drawn_by_its_own_place_wherever_the_run_begins[worth-0]")
FAILING = replay("rows_that_cannot_be_changed_alone_run_whole_and_say_why_among_those_that_can[ahead]")
COLLECTS = replay("what_skips_collects_or_is_noise_at_one_token_equals_the_whole_run[ahead]")
LONG_PREFIX = replay("jobs_on_prompts_that_share_a_prefix_equal_those_on_whole_ones[worth-12]")
PREFIX = replay("jobs_on_prompts_that_share_a_prefix_equal_those_on_whole_ones[worth-4]")
ALONE_EQUALS = replay("every_site_position_and_head_resumes[ahead-llama]")
GROWS = "workers/test_verify.py::test_a_decoder_resumes_and_the_check_leaves_nothing_behind"
COME_BACK, EARLIER, MIXED, UNFIT = (
    f"workers/test_base_runs.py::test_{test}"
    for test in (
        "bases_that_come_back_after_others_took_their_slots_are_run_again",
        "jobs_that_begin_before_those_of_earlier_calls_have_what_they_need",
        "rows_of_one_cell_of_which_some_go_ahead_alone_keep_their_own_bases",
        "rows_whose_values_do_not_fit_fail_among_those_that_resume",
    )
)

MUTANTS = {
    "a job begins at the last block that it changes": Mutant(
        QUEUES, "return min(known,", "return max(known,", EARLIEST
    ),
    "a job begins at the last token that it changes": Mutant(
        QUEUES, "return min([job.read, *(", "return max([*(", EARLIEST
    ),
    "a job begins at what it reads": Mutant(
        QUEUES,
        "return min([job.read, *(token for change in job.changes for token in change.tokens)])",
        "return job.read",
        EARLIEST,
    ),
    "what is read before the first change is not run": Mutant(
        QUEUES, "return min([job.read, *(", "return min([*(", SPANS
    ),
    "rows are those of the pairs in another order": Mutant(
        ROUNDS, "slots=slots[ahead.order]", "slots=slots", MIXED
    ),
    "rows do not begin in the order of their blocks": Mutant(
        AHEAD,
        "order = sorted(range(len(waiting)), key=starts.__getitem__)",
        "order = [*range(len(waiting))]",
        ALONE_EQUALS,
    ),
    "rows that begin at a block are not there yet": Mutant(
        RESUME, "bisect_right(starts, block)", "bisect_right(starts, block - 1)", GROWS
    ),
    "blocks before the last start are left out": Mutant(
        FORWARD, "range(rows.starts[0])", "range(rows.starts[-1])", GROWS
    ),
    "rows that begin replace those that have begun": Mutant(
        FORWARD,
        "torch.cat([hidden, new]) if begun else new",
        "torch.cat([new, hidden]) if begun else new",
        GROWS,
    ),
    "rows begin with what another base had": Mutant(
        FORWARD, "slots = rows.slots[begun:end]", "slots = rows.slots[: end - begun]", GROWS
    ),
    "rows begin with what the base had some tokens before": Mutant(
        FORWARD,
        "new = inputs[:, rows.first - rows.bases.extent.first :]",
        "new = inputs[:, : inputs.shape[1] - (rows.first - rows.bases.extent.first)]",
        EVERY,
    ),
    "positions are counted from where a run begins": Mutant(
        FORWARD, "torch.arange(first, first + num_tokens", "torch.arange(0, num_tokens", EARLIEST
    ),
    "the tokens before are masked": Mutant(
        LAYERS,
        "return self.get_seq_length() + query_length, 0",
        "return query_length, self.get_seq_length()",
        EARLIEST,
    ),
    "keys are those of another base": Mutant(
        LAYERS, "before.slots[:num_rows]", "before.slots[:num_rows].flip(0)", EARLIEST
    ),
    "values of the last token before are not there": Mutant(
        LAYERS,
        "value_states = _after(before.values",
        "value_states = _after([v if v is None else v.roll(1, 2) for v in before.values]",
        EARLIEST,
    ),
    "a base that lost its slot is believed to be there": Mutant(
        BASES, "self._filled.discard(prompt)", "pass", COME_BACK
    ),
    "a base takes the slot of another": Mutant(
        BASES, "held.index_copy_(0, slots, new)", "held.index_copy_(0, slots.flip(0), new)", EARLIEST
    ),
    "a base cache is used again for jobs that begin earlier": Mutant(
        BASES, "and self.first <= other.first", "and True", EARLIER
    ),
    "keys and values are kept up to the first change alone": Mutant(
        NEEDS, "last=min(max(firsts, default=0)", "last=min(min(firsts, default=0)", EVERY
    ),
    "what is read is counted from the first token": Mutant(
        FORWARD, "rows.reads - rows.first", "(rows.reads - rows.first).clamp_max(0)", SPANS
    ),
    "the head is given the rows that failed": Mutant(
        ROUNDS, "logits[good, 0] if failed", "logits[: len(good), 0] if failed", UNFIT
    ),
    "a row that failed alone is taken as it is": Mutant(
        ROUNDS, "edits.failures(seen).keys() | ahead.failed", "edits.failures(seen).keys() | set()", FAILING
    ),
    "prompts share a token in which they differ": Mutant(
        BASES, "return min(shared, most) if", "return min(shared + 1, most) if", PREFIX
    ),
    "a prefix is shared past the first change": Mutant(CAPTURES, "*reads, *firsts]))", "*reads]))", PREFIX),
    "all prompts are kept as if they began at the first token": Mutant(
        BASES, "hidden[:, extent.first - num_before :]", "hidden[:, extent.first :]", LONG_PREFIX
    ),
    "noise is drawn by where it was moved to": Mutant(
        QUEUES, "return ready.unit.run != NOISE and", "return", NOISE
    ),
    "a token that goes alone is put into another row": Mutant(
        AHEAD, "given={new: given[row] for new", "given={new: given[token_local[0]] for new", ALONE_EQUALS
    ),
    "what goes on to other tokens goes alone": Mutant(
        QUEUES, "place.tap.unscaled in resume.token_local and", "", ALONE_EQUALS
    ),
    "a change of several tokens goes alone": Mutant(
        QUEUES, "change.tokens == (token,)", "token in change.tokens", ALONE_EQUALS
    ),
    "what went alone is changed once more": Mutant(
        AHEAD,
        "changes_from(waiting[row].job, starts[row], resume) if row in given",
        "waiting[row].job.changes if False",
        ALONE_EQUALS,
    ),
    "a unit that collects goes alone and is counted otherwise": Mutant(
        QUEUES, "change.step.operation != COLLECT\n        and (", "(", COLLECTS
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
