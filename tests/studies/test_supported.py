"""Promise: what this version cannot run is refused by one sentence that names it and where it stands."""

from pathlib import Path

import pytest

from studies import load_study
from studies.load import check_supported, load_all
from studies.tasks import TASKS
from workers.errors import NotYetError

HEAD = "study: x\nmodel: smollm2-135m\ntask: {name: capitals, num_pairs: 4, seed: 0}\n"
PLACE = "site: block_output, layer: 0, position: 0"


def test_the_examples_run_or_name_what_is_missing() -> None:
    found: dict[str, str] = {}
    for study in load_all((Path(__file__).parent / "examples.yaml").read_text(encoding="utf-8")):
        try:
            check_supported(study)
        except NotYetError as error:
            found[study.study] = str(error).removeprefix(f"{study.study}: ")
    later = "not there yet in this version"
    assert found == {
        "causalgym": f"the task 'agr_gender' is {later.replace(' yet', '')}; there are: {', '.join(TASKS)}",
        "ravel-city": f"label_tokens: scoring all tokens of a label is {later}",
        "steer-chat": f"generate: generation is {later}",
    }


@pytest.mark.parametrize(
    "sweep",
    [
        f"{{{PLACE}}}",
        f"{{{PLACE}, interventions: [vanilla, add, subtract]}}",
        f"{{{PLACE}, from: zero}}",
        f"{{{PLACE}, from: {{run: base, layer: 3}}}}",
        f'{{{PLACE}, subspaces: [all, "0:16"]}}',
        f"{{{PLACE}, seeds: [0, 1]}}",
        f"{{{PLACE}, interventions: [vanilla, skip, collect]}}",
        "{site: block_output, layer: 0, coordinates: '1:3, 4:9'}",
        f"{{{PLACE}, interventions: [add, mine:double, my.own:half]}}",
        f"{{{PLACE}, from: mean}}",
        f"{{{PLACE}, from: {{noise: 3}}, seed: 0}}",
        f"{{{PLACE}, from: sent, runs: {{sent: [{{layer: 1, from: base}}]}}}}",
        "{site: cell_output, layer: 0, position: 0}",
        f"{{{PLACE}, read: -2, where: split = 'test', missing: skip}}",
        f"{{{PLACE}, for: {{run: [source, source_2]}}, from: $run}}",
        "{site: block_output, layer: 0, position: subject, reads: [subject.last, 0]}",
    ],
)
def test_what_rows_can_say_runs(sweep: str) -> None:
    check_supported(load_study(f"{HEAD}sweep: [{sweep}]"))


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (f"{{{PLACE}, read: [0, 1]}}", "block0: read: reading in several places at once is"),
        (f"{{{PLACE}, reads: [T1]}}", "block0: reads: reading the model's output 'T1' is"),
        (f"{{{PLACE}, steps: [every]}}", "block0: steps: steps of a generation are"),
    ],
)
def test_what_is_to_come_is_named_with_its_block(sweep: str, message: str) -> None:
    with pytest.raises(NotYetError) as caught:
        check_supported(load_study(f"{HEAD}sweep: [{sweep}]"))
    assert message in str(caught.value)


@pytest.mark.parametrize("metric", ["generated", "{contains: great}"])
def test_metrics_to_come_are_named(metric: str) -> None:
    with pytest.raises(NotYetError, match="metrics: the metric"):
        check_supported(load_study(f"{HEAD}metrics: [{metric}]\nsweep: [{{{PLACE}}}]"))


def test_a_task_to_come_is_named() -> None:
    with pytest.raises(NotYetError, match="the task 'agr' is not there in this version; there are: capitals"):
        check_supported(load_study(f"study: x\nmodel: gpt2\ntask: agr\nsweep: [{{{PLACE}}}]"))
