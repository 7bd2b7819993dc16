"""Promise: the whole language reads, reads back equal, and what is wrong is named with file and line."""

import copy
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studies import Block, Fit, ModelSpec, Plot, Study, Task, UnitSpec, ValueSpec, load_study
from studies.language.results import metric_families
from studies.load import load_all
from studies.yaml import dump_yaml, read_all_yaml
from workers.errors import StudyError

pytestmark = pytest.mark.versions
EXAMPLES = Path(__file__).parent / "examples.yaml"
HEAD = "study: x\nmodel: smollm2-135m\ntask: {name: capitals, num_pairs: 4, seed: 0}\n"
SWEEP = "sweep: [{site: block_output, layer: 0, position: 0}]\n"


@pytest.fixture(scope="module")
def examples() -> dict[str, Study]:
    return {study.study: study for study in load_all(EXAMPLES.read_text(encoding="utf-8"), "examples.yaml")}


def test_the_eleven_examples_are_read(examples: dict[str, Study]) -> None:
    assert len(examples) == 11


def test_the_examples_read_back_equal_from_their_own_yaml(examples: dict[str, Study]) -> None:
    for study in examples.values():
        assert load_study(study.to_yaml()) == study


def test_a_built_in_models_options_are_told_from_its_settings(examples: dict[str, Study]) -> None:
    model = examples["mlp-halves"].model
    assert isinstance(model, ModelSpec)
    assert model.ref == "zoo:mlp"
    assert model.options == {"width": 32, "num_layers": 1, "outputs": 2, "seed": 0}


def test_a_learning_rate_is_a_number(examples: dict[str, Study]) -> None:
    assert (examples["causalgym"].fits or {})["das"].lr == 0.005


def test_study_level_keys_are_defaults_of_blocks_and_either_form_overrides(
    examples: dict[str, Study],
) -> None:
    study = load_study(
        HEAD + "site: block_output\nlayers: all\nposition: 0\nsweep: [{}, {layer: 3}, {sites: [mlp_output]}]"
    )
    first, second, third = study.blocks()
    assert (first.site, first.layers, first.layer) == ("block_output", "all", None)
    assert (second.layers, second.layer) == (None, 3)
    assert (third.site, third.sites) == (None, ("mlp_output",))
    assert [block.name for block in study.blocks()] == ["block0", "block1", "block2"]


def test_python_builds_the_same_study_as_the_file() -> None:
    built = Study(
        study="x",
        model="smollm2-135m",
        task=Task(name="capitals", num_pairs=4, seed=0),
        fits={"R": Fit(method="pca", rank=2)},
        sweep=[
            Block(
                layers="all",
                heads=[0, [1, 2]],
                units=[
                    UnitSpec(
                        site="query_output",
                        layer="$layer",
                        head="$head",
                        position=-1,
                        from_=ValueSpec(run="base"),
                    )
                ],
            )
        ],
        plots={"p": Plot(kind="bars", x=["layer", "head"], y="iia")},
    )
    read = load_study(
        HEAD + "fits: {R: {method: pca, rank: 2}}\nsweep:\n  - layers: all\n    heads: [0, [1, 2]]\n"
        "    units: [{site: query_output, layer: $layer, head: $head, position: -1, from: base}]\n"
        "plots: {p: {kind: bars, x: [layer, head], y: iia}}\n"
    )
    assert built == read
    assert load_study(built.to_yaml()) == built


def test_python_gets_the_same_error_without_a_line() -> None:
    with pytest.raises(
        StudyError, match=r"sites\[0\]: 'mlp_ouput' is not allowed here; .* did you mean 'mlp_output'"
    ):
        Block(sites=["mlp_ouput"])


def test_specs_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        load_study("capitals").study = "y"  # type: ignore[misc]


def test_lanes_are_the_models_of_all_blocks_each_once(examples: dict[str, Study]) -> None:
    assert [model.ref for model in examples["causalgym"].lanes()] == [
        "pythia-14m",
        "pythia-70m",
        "pythia-160m",
        "pythia-410m",
    ]
    assert [model.ref for model in examples["digit-sum-part"].lanes()] == ["iit"]


# Each: what follows the study's head (so line 4 is its first), the line, the message.
WRONG = [
    ("swep: []", 4, "swep: the key 'swep' is not allowed here; allowed: site, layer"),
    ("swep: []", 4, "did you mean 'sweep'?"),
    ("metrics: [iia]", 1, "study: the key 'sweep' is missing; it is required here"),
    ("sweep: []", 4, "sweep: [] is not allowed here"),
    ("sweep: {}", 4, "sweep: {} is not allowed here"),
    ("sweep:\n  - {sits: [mlp_output]}", 5, "sweep[0].sits: the key 'sits' is not allowed here"),
    ("sweep:\n  - {sits: [mlp_output]}", 5, "did you mean 'site"),
    (
        "sweep:\n  - sites:\n    - mlp_output\n    - mlp_ouput",
        7,
        "sweep[0].sites[1]: 'mlp_ouput' is not allowed here; allowed: block_input,",
    ),
    ("sweep:\n  - site: mlp.x:inputs", 5, "'mlp.x:inputs' is not allowed here"),
    (
        "sweep:\n  - layers: 3",
        5,
        "sweep[0].layers: 3 is not allowed here; allowed: a list with one value for each",
    ),
    ("sweep:\n  - layers: [1, 1]", 5, "allowed: a list without repeated values"),
    (
        "sweep:\n  - layer: -1",
        5,
        "sweep[0].layer: -1 is not allowed here; allowed: a layer from 0, all, a range",
    ),
    ("sweep:\n  - layer: true", 5, "sweep[0].layer: True is not allowed here"),
    ("sweep:\n  - layer: al", 5, "did you mean 'all'?"),
    ("sweep:\n  - position: 1.5", 5, "sweep[0].position: 1.5 is not allowed here; allowed: a token's index"),
    ("sweep:\n  - position: []", 5, "sweep[0].position: [] is not allowed here"),
    ("sweep:\n  - positions: subject.last", 5, "sweep[0].positions: 'subject.last' is not allowed here"),
    ("sweep:\n  - subspace: 16:0", 5, "sweep[0].subspace: '16:0' is not allowed here; allowed: dimensions"),
    ("sweep:\n  - subspaces: all", 5, "sweep[0].subspaces: 'all' is not allowed here"),
    ("sweep:\n  - intervention: vanila", 5, "did you mean 'vanilla'?"),
    ("sweep:\n  - seeds: all", 5, "sweep[0].seeds: 'all' is not allowed here"),
    ("sweep:\n  - missing: drop", 5, "sweep[0].missing: 'drop' is not allowed here; allowed: skip"),
    (
        "sweep:\n  - layer: 1\n    layers: all",
        6,
        "both 'layer' and 'layers' are here; allowed: one form of the two",
    ),
    (
        "sweep:\n  - from: {run: source, postion: 3}",
        5,
        "sweep[0].from.postion: the key 'postion' is not allowed",
    ),
    ("sweep:\n  - from: {noise: 1.0, run: source}", 5, "allowed: one of run, fit, noise"),
    (
        "sweep:\n  - from: [source]",
        5,
        "sweep[0].from: ['source'] is not allowed here; allowed: source, source_2",
    ),
    ("sweep:\n  - for: {a: 3}", 5, "sweep[0].for.a: 3 is not allowed here; allowed: a list"),
    ("sweep:\n  - for: [{a: 1}, {b: 1}]", 5, "the same names in each map of the list"),
    (SWEEP + "fits: {R: {method: dass}}", 5, "fits.R.method: 'dass' is not allowed here; allowed: das,"),
    (SWEEP + "fits: {R: {method: das, rank: 1, ranks: [2]}}", 5, "both 'rank' and 'ranks' are here"),
    (SWEEP + "filter: both", 5, "filter: 'both' is not allowed here; allowed: both_correct, none"),
    (SWEEP + "metrics: [iia, logitdiff]", 5, "did you mean 'logit_diff'?"),
    (
        SWEEP + "plots: {p: {kind: heatmap, x: layer}}",
        5,
        "plots.p: the key 'y' is missing; heatmap needs x, y, fill",
    ),
    (SWEEP + "plots: {p: {kind: pie}}", 5, "plots.p.kind: 'pie' is not allowed here; allowed: heatmap, bars"),
    (
        SWEEP + "generate: {max_tokens: 0}",
        5,
        "generate.max_tokens: 0 is not allowed here; allowed: a whole number from 1",
    ),
    # What no single key can tell.
    (SWEEP + "pairs: x.csv", 5, "pairs: both pairs and a task are here; allowed: one of the two"),
    (
        "sweep:\n  - {site: block_output, layer: $layr, position: 0, for: {lay: [1]}}",
        5,
        "'$layr' is not allowed here",
    ),
    ("sweep:\n  - {site: block_output, layer: 0, position: 0, from: sourc}", 5, "did you mean 'source'?"),
    ("sweep:\n  - {site: block_output, layer: 0, position: 0, subspace: R}", 5, "no fit 'R'; allowed: all"),
    ("sweep:\n  - {site: block_output, position: 0}", 5, "sweep[0]: the key 'layer' or 'layers' is missing"),
    ("sweep:\n  - {layer: 0, position: 0}", 5, "sweep[0]: the key 'site' or 'sites' is missing"),
    (
        "sweep:\n  - layers: all\n    units: [{site: block_output, layer: 1, position: 0}]",
        5,
        "sweep[0].layers: no unit uses this axis; write 'layer: $layer' in a unit",
    ),
    (
        "sweep:\n  - {sites: [model.norm], layers: all, position: 0}",
        5,
        "sweep[0].sites: the module path 'model.norm' has no '$layer'",
    ),
    (
        "sweep:\n  - {sites: [mlp_output, model.norm], layers: all, position: 0}",
        5,
        "so the axis 'layers' cannot reach it; write '$layer' in it, or give it a block of its own",
    ),
    (
        "sweep:\n  - {site: $m, layers: all, position: 0, for: {m: [model.norm]}}",
        5,
        "sweep[0].site: the module path 'model.norm' has no '$layer'",
    ),
    (
        "sweep:\n  - {sites: [model.norm, mlp_output], position: 0}",
        5,
        "sweep[0]: the key 'layer' or 'layers' is missing",
    ),
    (
        "sweep:\n  - {site: $m, position: 0, for: {m: [model.norm, mlp_output]}}",
        5,
        "sweep[0]: the key 'layer' or 'layers' is missing",
    ),
    (
        "sweep:\n  - {sites: ['model.layers.$layer.mlp'], position: 0}",
        5,
        "sweep[0].sites: the values of an axis cannot name other axes; allowed: $pair.COLUMN, $layer",
    ),
    (
        "sweep:\n  - {name: a, site: block_output, layer: 0, position: 0}\n"
        "  - {name: a, site: block_output, layer: 0, position: 0}",
        6,
        "sweep[1]: two blocks are named 'a'",
    ),
    (
        "sweep:\n  - {site: block_output, layer: $a, position: 0, for: {a: [1], b: ['$a']}}",
        5,
        "sweep[0].for.b: the values of an axis cannot name other axes",
    ),
    (
        "sweep:\n  - {site: block_output, layer: 0, position: 0, for: {layer: [1]}}",
        5,
        "'layer' is a key already",
    ),
]


@pytest.mark.parametrize(("text", "line", "message"), WRONG)
def test_what_is_wrong_is_named_with_file_and_line(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    with pytest.raises(StudyError) as caught:
        load_study(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}:{line}: "), str(caught.value)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            "study: ../x\nmodel: m\ntask: t\n",
            "<text>:1: study: '../x' is not allowed here; allowed: a folder's name",
        ),
        (
            "study: x\nmodel: {ref: m, dtpye: x}\ntask: t\n",
            "<text>:2: model.dtpye: the key 'dtpye' is not allowed",
        ),
        ("study: x\nmodel: {ref: m, dtpye: x}\ntask: t\n", "did you mean 'dtype'?"),
        (
            "study: x\nmodel: {ref: m, dtype: float31}\ntask: t\n",
            "<text>:2: model.dtype: 'float31' is not allowed",
        ),
        ("study: x\nmodel: 3\ntask: t\n", "<text>:2: model: 3 is not allowed here; allowed: a model's name"),
        ("study: x\ntask: t\n", "the key 'model' is missing; block0 has none"),
        ("study: x\nmodel: m\n", "the key 'task' or 'pairs' is missing"),
        (
            "study: x\nmodel: m\ntask: {name: capitals, num_pairs: 3}\n",
            "<text>:3: task: the key 'seed' is missing",
        ),
        (
            "study: x\nmodel: m\ntask: {name: capitals, num_pair: 3, seed: 0}\n",
            "<text>:3: task.num_pair: the key 'num_pair' is not allowed here;"
            " allowed: name, num_pairs, seed, filter; did you mean 'num_pairs'?",
        ),
        (
            "study: x\nmodel: m\npairs: x.txt\n",
            "<text>:3: pairs: 'x.txt' is not allowed here; allowed: a path",
        ),
        (
            "study: x\nmodel: m\npairs:\n  - {base: a}\n  - {bse: b}\n",
            "<text>:5: pairs[1]: the column 'base' is missing;"
            " a pair needs base, base_ids or base_embeds; did you mean 'base'?",
        ),
        ("study: x\nmodel: m\npairs:\n  - {base: 3}\n", "<text>:4: pairs[0].base: 3 is not allowed here"),
    ],
)
def test_a_wrong_model_task_or_pair_is_named(head: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(head + SWEEP)
    assert message in str(caught.value)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_stands_in_a_file_is_read_or_refused_in_our_words(seed: int) -> None:
    """Parts of the examples are swapped for each other and for junk."""
    documents = [text.data for text in read_all_yaml(EXAMPLES.read_text(encoding="utf-8"))]
    values = [value for data in documents for _, value in _values(data)]
    values += [None, True, -1, 1.5, 10**40, "", "$x", "$pair.x", [], [None], [[1]], {}, {"a": 1}, {"ref": 3}]
    rng = random.Random(seed)
    for _ in range(100):
        data = copy.deepcopy(rng.choice(documents))
        holder, key = rng.choice([slot for slot, _ in _values(data)])
        holder[key] = copy.deepcopy(rng.choice(values))
        try:
            study = load_study(dump_yaml(data))
        except StudyError as error:
            assert str(error).startswith("<text>:"), error
        else:
            assert load_study(study.to_yaml()) == study


def _values(data: Any) -> Iterator[tuple[tuple[Any, Any], Any]]:
    """Every value below `data`, with the container and the key that hold it."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (data, key), value
        yield from _values(value)


def test_several_problems_come_at_once_in_the_order_of_the_file() -> None:
    text = HEAD + "filter: x\nlabel_tokens: y\nmetrics: [z]\nsweep: [{layer: -1}]\n"
    with pytest.raises(StudyError) as caught:
        load_study(text)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["<text>:4", "<text>:5", "<text>:6", "<text>:7"]


def test_of_many_problems_the_first_five_are_shown() -> None:
    rows = "".join(f"  - {{layer: -{n}}}\n" for n in range(1, 9))
    with pytest.raises(StudyError) as caught:
        load_study(HEAD + "sweep:\n" + rows)
    assert str(caught.value).splitlines()[-1] == "... and 3 more"
    assert len(str(caught.value).splitlines()) == 6


@pytest.mark.parametrize("name", ["capitals", "factual-recall", "gru-steps", "mlp-halves"])
def test_a_bundled_study_is_found_by_its_name(name: str) -> None:
    study = load_study(name)
    assert study.study == name
    assert load_study(study.to_yaml()) == study


def test_an_unknown_study_says_which_are_bundled() -> None:
    says = "bundled studies: capitals, digit-sum, .*, mlp-halves; did you mean 'capitals'"
    with pytest.raises(StudyError, match=f"no such study file; {says}"):
        load_study("capitols")


def test_pairs_are_found_beside_the_study_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("study: x\nmodel: m\npairs: p.csv\n" + SWEEP, encoding="utf-8")
    assert load_study(path).pairs == str((tmp_path / "p.csv").resolve())


@pytest.mark.parametrize("spelling", ["./m", "../{name}/m", "{{ref: ./m, dtype: bfloat16}}"])
def test_folders_of_models_are_found_beside_the_study_file(tmp_path: Path, spelling: str) -> None:
    model = spelling.format(name=tmp_path.name)
    path = tmp_path / "s.yaml"
    head = f"study: x\nmodel: {model}\npairs: [{{base: a}}]\nsite: block_output\nlayer: 0\nposition: 0\n"
    path.write_text(f"{head}sweep: [{{}}, {{models: [{model}, ~/m, gpt2, org/m, /m]}}]\n", encoding="utf-8")
    refs = [lane.ref for lane in load_study(path).lanes()]
    home = str(Path.home().resolve() / "m")
    assert refs == [str((tmp_path / "m").resolve()), home, "gpt2", "org/m", "/m"]


def test_folders_of_models_in_text_stay_as_written() -> None:
    assert load_study("study: x\nmodel: ./m\npairs: [{base: a}]\n" + SWEEP).model == ModelSpec(ref="./m")


def test_metrics_name_their_families() -> None:
    assert metric_families(None) == ("logits", "kl")
    assert metric_families(["iia", "prob"]) == ("logits",)
    assert metric_families(["kl_base"]) == ("kl",)
    assert metric_families(["logit_diff", "flip", "logit"]) == ("labels",)
    assert metric_families(["kl_base", "logit_diff"]) == ("labels", "kl")
    assert metric_families(["logit_diff", "iia"]) == ("logits",)
    assert metric_families(["kl_base"], is_screened=True) == ("labels", "kl")


def test_importing_the_language_loads_nothing_heavy() -> None:
    heavy = "torch", "transformers", "ray", "pyarrow"
    code = f"import studies, sys; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
