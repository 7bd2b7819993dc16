"""Promise: the bundled trainings, made small, train what they say, and their controls do not.

The whole ones are run by `make studies`.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest

import swapyard as sy
from orchestrator.plots import draw_study
from studies.load import BUNDLED

ONE_SEED = {"seeds: [0, 1, 2]": "seeds: [0]", "num_test: 2000": "num_test: 400"}
DIGITS = {
    **ONE_SEED,
    "values: 30": "values: 10",
    "vocab_size: 30": "vocab_size: 10",
    "batch_size: 256": "batch_size: 128",
}
WHOLE = {
    **DIGITS,
    "num_train: 60000": "num_train: 4000",
    "outputs: 88": "outputs: 28",
    "width: 240": "width: 96",
    **{'"0:80"': '"0:32"', '"80:160"': '"32:64"', '"160:240"': '"64:96"'},
    "num_steps: 3000": "num_steps: 800",
    "measure_every: 500": "measure_every: 400",
    "3e-3": "5e-3",
}
PART = {
    **DIGITS,
    "values: 30": "values: 5",
    "vocab_size: 30": "vocab_size: 5",
    "num_train: 60000": "num_train: 6000",
    "classes: 117": "classes: 17",
    "classes: 88": "classes: 13",
    "width: 320": "width: 96",
    **{'"0:80"': '"0:24"', '"80:160"': '"24:48"', '"160:240"': '"48:72"'},
    "measure_every: 500": "measure_every: 200",
    "3e-3": "5e-3",
}
TRANSFORMER = {
    **DIGITS,
    "num_train: 120000": "num_train: 4000",
    "outputs: 88": "outputs: 28",
    "width: 64": "width: 32",
    "num_layers: 3": "num_layers: 2",
    "layer: 1": "layer: 0",
    "num_steps: 6000": "num_steps: 600",
    "measure_every: 1000": "measure_every: 200",
}
EQUALITY = {
    **ONE_SEED,
    "num_train: 20000": "num_train: 10000",
    "num_epochs: 40": "num_epochs: 30",
    "num_steps: 1000": "num_steps: 300",
    "ranks: [16, 32]": "ranks: [32]",
    "layers: [0, 1, 2]": "layers: [0, 2]",
}


def small(name: str, instead: Mapping[str, str], store: Path) -> sy.Results:
    """A bundled study with something smaller in the place of what its file says."""
    text = (BUNDLED / f"{name}.yaml").read_text("utf-8")
    for there, here in instead.items():
        assert there in text, there
        text = text.replace(there, here)
    results = sy.run(sy.load_study(text), store=store, executor="inline", quiet=True)
    assert results.sql("SELECT count(*) FROM failures").fetchall() == [(0,)]
    return results


def accuracies(results: sy.Results, read: str = "NULL") -> dict[tuple[float, str], float]:
    """The interchange accuracy that the sweep found at each place of the alignment, by weight of its loss."""
    found = results.sql(
        f"SELECT interchange, variable, avg(iia) FROM results WHERE {read} IS NULL OR {read} = 'T2'"
        " GROUP BY ALL"
    )
    return {(weight, variable): value for weight, variable, value in found.fetchall()}


def task_accuracy(results: sy.Results, where: str = "true") -> float:
    """At the end, on the test pairs; the least of all trainings."""
    ((least,),) = results.sql(
        f"""SELECT min(value) FROM (FROM curves QUALIFY step = max(step) OVER ())
            WHERE split = 'test' AND metric = 'task_accuracy' AND {where}"""
    ).fetchall()
    return float(least)


def pictures(results: sy.Results) -> set[str]:
    assert results.outcome is not None
    return {Path(path).stem for path in draw_study(results.outcome.root)}


@pytest.mark.night
def test_a_network_is_trained_to_hold_a_sum_of_two_digits(tmp_path: Path) -> None:
    results = small("digit-sum", WHOLE, tmp_path)
    found = accuracies(results)
    assert found[1.0, "S"] > 0.95 and found[0.0, "S"] < 0.4
    # What the first layer is given is the input itself, with the loss or without.
    assert min(found[1.0, name] for name in "xyz") > 0.95
    assert task_accuracy(results, "interchange = 1.0") > 0.95
    assert pictures(results) == {"alignment", "curves", "bars"}


@pytest.mark.night
def test_an_output_that_reads_one_node_holds_a_part_of_the_graph(tmp_path: Path) -> None:
    results = small("digit-sum-part", PART, tmp_path)
    found = accuracies(results, "read")
    assert min(found[1.0, name] for name in ("S1", "C1", "S2")) > 0.9 and found[0.0, "S1"] < 0.5
    # S2 is all that T2 reads, so it holds it whatever it is trained for.
    assert found[0.0, "S2"] > 0.9
    assert task_accuracy(results, "head = 'T2'") > 0.95
    assert pictures(results) == {"alignment", "curves", "bars"}


def test_a_token_of_a_transformer_is_trained_to_hold_the_sum(tmp_path: Path) -> None:
    results = small("digit-sum-gpt", TRANSFORMER, tmp_path)
    found = results.sql(
        """SELECT interchange, layer, base_position, avg(iia) FROM results
           WHERE block = 'everywhere' GROUP BY ALL"""
    )
    at = {(weight, layer, token): value for weight, layer, token, value in found.fetchall()}
    assert at[3.0, 0, 1] > 0.85 and at[0.0, 0, 1] < 0.5
    # The other tokens hold something else.
    assert max(at[3.0, 0, 0], at[3.0, 0, 2]) < 0.5
    assert pictures(results) == {"alignment", "curves", "everywhere"}


def test_a_rotation_finds_an_equality_in_the_first_layer_and_none_in_the_last(tmp_path: Path) -> None:
    results = small("hierarchical-equality", EQUALITY, tmp_path)
    found = dict(
        results.sql(
            "SELECT layer, avg(iia) FROM results WHERE subspace = 'das' GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    )
    assert found[0] > 0.8 and found[2] < 0.65
    assert task_accuracy(results) > 0.95


@pytest.mark.parametrize("name", ["digit-sum", "digit-sum-part", "digit-sum-gpt", "hierarchical-equality"])
def test_no_input_is_trained_on_and_tested(name: str) -> None:
    """Of the whole study, as it stands."""
    from orchestrator.plan.load_pairs import task_rows
    from studies.tasks import find_task

    (task,) = sy.load_study(name).all_tasks()
    seen: dict[str, set[str]] = {"train": set(), "test": set()}
    for row in task_rows(find_task(task.name), task):
        values = {key: value for key, value in row.items() if key.split(".")[0] in ("base", "source")}
        for run in ("base", "source"):
            inputs = [values[f"{run}.{name}"] for name in "wxyz" if f"{run}.{name}" in values]
            seen[row["split"]].add(str(inputs))
    assert len(seen["train"]) > 1000 and len(seen["test"]) > 1000
    assert not seen["train"] & seen["test"]
