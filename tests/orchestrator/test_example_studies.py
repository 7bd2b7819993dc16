"""Promise: the examples of path patching, causal tracing, steering and ablation run as they are written on
random models: as many rows as a count by hand gives, none failed, and the numbers that plain hooks give."""

import csv
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from running import capital_pairs
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import swapyard as sy
from studies.tasks import find_task
from tests.workers import plain
from workers.engine.replay.probe import probed
from workers.intervene.compile import example_of
from workers.intervene.values import Drawn, draw
from workers.model.loading import load
from workers.model.references import resolve
from workers.vocabulary import ModelSpec, Pair

EXAMPLES = Path(__file__).parents[1] / "studies" / "examples.yaml"
LAYERS, HEADS, HEAD = 11, 10, 2
"""As many layers and heads as the examples name, each head so wide."""
CLOSE = 1e-5
APART = 1e-4
EVERYTHING = slice(None)


@pytest.fixture(scope="module", autouse=True)
def _one_core() -> Iterator[None]:
    """Threads that wait for each other make tiny models slower, many times so where others run too."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def example(name: str, folder: Path, changes: Mapping[str, str]) -> sy.Study:
    """The example of this name as a file in `folder`, with some of its text replaced."""
    documents = EXAMPLES.read_text(encoding="utf-8").split("\n---")
    (text,) = (one for one in documents if f"\nstudy: {name}\n" in one)
    text = text.partition("\n")[2]
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return sy.load_study(str(path))


def run(study: sy.Study, folder: Path) -> sy.Results:
    """All of a study in this process; nothing failed."""
    results = sy.run(study, store=folder / "runs", executor="inline", quiet=True)
    assert results.sql("SELECT count(*) FROM failures").fetchall() == [(0,)]
    return results


def counts(results: sy.Results) -> dict[str, tuple[int, int]]:
    """Of each block its rows and its jobs: cells that resolve to one job have a row each."""
    found = results.sql("SELECT block, count(*), count(DISTINCT job_id) FROM results GROUP BY ALL")
    return {block: (rows, jobs) for block, rows, jobs in found.fetchall()}


def rows(results: sy.Results, where: str, *columns: str) -> list[tuple[Any, ...]]:
    """Of the rows `where`: each run's ids, the base label's id and logit, and `columns`."""
    named = "".join(f", r.{column}" for column in columns)
    return results.sql(
        f"""SELECT i.tokens, r.base_label_id, r.base_label_logit{named}
            FROM results r JOIN inputs i USING (pair_id) WHERE {where} ORDER BY ALL"""
    ).fetchall()


def ids(prompt: Sequence[int]) -> Tensor:
    return torch.tensor([prompt])


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 whose tokenizer has a word for each of the task's."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    drawn = itertools.islice(find_task("ioi").candidates(seed=0, options={}), 3000)
    texts = {row[key] for row in drawn for key in ("base", "source", "base_label", "label")}
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(["[UNK]", *words])}, "[UNK]"))
    tokenizer.pre_tokenizer = split
    torch.manual_seed(0)
    shape = {"n_embd": HEADS * HEAD, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 32}
    config = GPT2Config(vocab_size=len(words) + 1, initializer_range=0.5, **shape)
    folder = tmp_path_factory.mktemp("gpt2") / "gpt2"
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def columns_of(*heads: int) -> list[int]:
    return [head * HEAD + n for head in heads for n in range(HEAD)]


def put(columns: Sequence[int] | slice, value: Tensor, at: int | slice = slice(None)) -> plain.Touch:
    """Writes `value` [T, C] or [C] into some columns at some tokens of one example."""

    def touch(tensor: Tensor) -> Tensor:
        new = tensor.clone()
        new[0, at, columns] = value
        return new

    return touch


@pytest.fixture(scope="module")
def paths(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> sy.Results:
    folder = tmp_path_factory.mktemp("paths")
    changes = {"model: gpt2": f"model: {gpt2}", "num_pairs: 200": "num_pairs: 3"}
    return run(example("ioi-paths", folder, changes), folder)


def test_path_patching_has_a_cell_for_each_head(paths: sy.Results) -> None:
    direct, through = LAYERS * HEADS * 3, 9 * HEADS * 3
    assert counts(paths) == {"block0": (direct, direct), "block1": (through, through)}


@pytest.mark.parametrize(("layer", "head"), [(0, 9), (7, 3), (10, 0)])
@torch.no_grad()
def test_a_direct_path_is_one_head_changed_and_all_that_follows_held(
    paths: sy.Results, gpt2: Path, layer: int, head: int
) -> None:
    model = loaded(gpt2)
    found = rows(paths, f"block = 'block0' AND layer = {layer} AND head = {head}")
    assert len(found) == 3
    for tokens, label, logit in found:
        base, source = tokens["base"], tokens["source"]
        held = [
            (path, "output", put(EVERYTHING, plain.record(model, ids(base), path, "output")[0]))
            for path in (
                *(f"transformer.h.{n}.attn" for n in range(layer + 1, LAYERS)),
                *(f"transformer.h.{n}.mlp" for n in range(layer, LAYERS)),
            )
        ]
        mixed = f"transformer.h.{layer}.attn.c_proj"
        sent = plain.record(model, ids(source), mixed, "input")[0][:, columns_of(head)]
        logits = plain.run(model, ids(base), [*held, (mixed, "input", put(columns_of(head), sent))])
        assert float(logits[0, -1, label]) == pytest.approx(logit, abs=CLOSE)
        assert float(plain.run(model, ids(base))[0, -1, label]) != pytest.approx(logit, abs=APART)


@torch.no_grad()
def test_a_path_through_queries_is_two_runs_one_after_the_other(paths: sy.Results, gpt2: Path) -> None:
    model, later = loaded(gpt2), "transformer.h.9.attn.c_attn"
    found = rows(paths, "block = 'block1' AND layer = 4 AND head = 2")
    moved = []
    for tokens, label, logit in found:
        base, source = tokens["base"], tokens["source"]
        mixed = [f"transformer.h.{n}.attn.c_proj" for n in range(9)]
        touches = [
            (p, "input", put(EVERYTHING, plain.record(model, ids(base), p, "input")[0])) for p in mixed
        ]
        head = plain.record(model, ids(source), mixed[4], "input")[0][:, columns_of(2)]
        touches.append((mixed[4], "input", put(columns_of(2), head)))
        queries = seen(model, base, touches, later)[-1, columns_of(6, 9)]
        logits = plain.run(model, ids(base), [(later, "output", put(columns_of(6, 9), queries, at=-1))])
        assert float(logits[0, -1, label]) == pytest.approx(logit, abs=CLOSE)
        moved.append(abs(logit - float(plain.run(model, ids(base))[0, -1, label])))
    assert len(moved) == 3 and max(moved) > APART, moved


def seen(
    model: Any, base: Sequence[int], touches: Sequence[tuple[str, str, plain.Touch]], path: str
) -> Tensor:
    """What the module at `path` returns, [T, W], in a run with `touches`."""
    found: list[Tensor] = []

    def look(tensor: Tensor) -> Tensor:
        found.append(tensor[0].clone())
        return tensor

    plain.run(model, ids(base), [*touches, (path, "output", look)])
    return found[0]


@pytest.fixture(scope="module")
def tracing(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> sy.Results:
    folder = tmp_path_factory.mktemp("tracing")
    facts = {
        pair["base"]: {**pair, "span.subject": pair["base"].split()[3]} for pair in capital_pairs()
    }.values()
    kept = ("base", "base_label", "span.subject")
    lines = [json.dumps({key: fact[key] for key in kept}) for fact in facts]
    (folder / "facts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    changes = {"model: smollm2-135m": f"model: {tiny_folder}", '"0:10"': '"0:2"'}
    return run(example("causal-tracing", folder, changes), folder)


def test_causal_tracing_has_a_cell_for_each_window_token_and_seed(tracing: sy.Results) -> None:
    """In three layers a window of eleven is everything, so that all of a component's are one job."""
    num_pairs, num_layers, num_tokens, num_seeds = 4, 3, 5, 2
    written = 3 * num_layers * num_tokens * num_seeds
    jobs = (num_layers + 1 + 1) * num_tokens * num_seeds
    assert counts(tracing) == {
        "corrupted": (num_seeds * num_pairs,) * 2,
        "restored": (written * num_pairs, jobs * num_pairs),
    }


def test_restoring_all_that_the_answer_is_read_from_is_the_base(tracing: sy.Results) -> None:
    restored = "block = 'restored' AND what = 'block_output' AND layer = 2 AND position = 4"
    found = tracing.sql(f"SELECT count(*), max(kl_base) < 1e-6 FROM results WHERE {restored}").fetchall()
    assert found == [(8, True)]
    corrupted = "SELECT count(*), min(kl_base) > 1e-3 FROM results WHERE block = 'corrupted'"
    assert tracing.sql(corrupted).fetchall() == [(8, True)]


@pytest.mark.parametrize("is_restored", [False, True])
@torch.no_grad()
def test_noise_is_what_was_drawn_for_the_pair_and_a_clean_state_undoes_a_part(
    tracing: sy.Results, tiny_folder: Path, is_restored: bool
) -> None:
    spec = ModelSpec(ref=str(tiny_folder), device="cpu")
    model = probed(load(spec, resolve(spec)))
    module, first, second = model.module, "model.layers.0", "model.layers.1"
    place = model.target("block_input", 0, None, None).tap
    deviation = 3 * float(module.get_input_embeddings().weight.std(correction=0))
    restored = "block = 'restored' AND what = 'block_output' AND layer = 1 AND position = 3"
    found = rows(tracing, restored if is_restored else "block = 'corrupted'", "seed")
    assert len(found) == 8
    for tokens, label, logit, seed in found:
        base = tokens["base"]
        drawn = Drawn(deviation, seed, example_of(Pair(0, {"base": tuple(base)}, {}, (), (label,))), (3,))
        noisy = plain.record(module, ids(base), first, "input")[0, 3] + draw(drawn, place, 32)[0]
        changes = [(first, "input", put(EVERYTHING, noisy, at=3))]
        if is_restored:
            clean = plain.record(module, ids(base), second, "output")[0, 3]
            changes.append((second, "output", put(EVERYTHING, clean, at=3)))
        logits = plain.run(module, ids(base), changes)
        assert float(logits[0, -1, label]) == pytest.approx(logit, abs=CLOSE)


@pytest.fixture(scope="module")
def steering(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> sy.Results:
    folder = tmp_path_factory.mktemp("steering")
    pairs = [{**pair, "split": "test" if n % 3 == 0 else "train"} for n, pair in enumerate(capital_pairs())]
    with (folder / "sentiment.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, pairs[0].keys())
        writer.writeheader()
        writer.writerows(pairs)
    return run(example("steer", folder, {"model: smollm2-135m": f"model: {tiny_folder}"}), folder)


def test_steering_has_a_cell_for_each_layer_and_strength(steering: sy.Results) -> None:
    num_pairs, num_layers = 4, 3
    assert counts(steering) == {
        "block0": (num_pairs * num_layers * 4,) * 2,
        "block1": (num_pairs * num_layers * 2,) * 2,
    }


@torch.no_grad()
def test_steering_adds_a_multiple_of_the_difference_of_means(steering: sy.Results, tiny_folder: Path) -> None:
    model, path = loaded(tiny_folder), "model.layers.1"
    known = dict(steering.sql("SELECT base, tokens.base FROM inputs").fetchall())
    train = steering.sql("SELECT base, source FROM pairs WHERE split = 'train'").fetchall()
    base_mean, source_mean = (
        torch.cat([plain.record(model, ids(known[pair[side]]), path, "output")[0] for pair in train]).mean(0)
        for side in (0, 1)
    )
    found = rows(steering, "block = 'block0' AND layer = 1", "a")
    assert len(found) == 4 * 4
    for tokens, label, logit, scale in found:
        base = tokens["base"]
        own = plain.record(model, ids(base), path, "output")[0]
        touch = put(EVERYTHING, own + scale * (source_mean - base_mean))
        logits = plain.run(model, ids(base), [(path, "output", touch)])
        assert float(logits[0, -1, label]) == pytest.approx(logit, abs=CLOSE)


@pytest.mark.parametrize(("site", "module"), [("mlp_output", "mlp"), ("attention_output", "self_attn")])
@torch.no_grad()
def test_zero_ablation_takes_what_a_module_adds_away(
    steering: sy.Results, tiny_folder: Path, site: str, module: str
) -> None:
    model = loaded(tiny_folder)
    found = rows(steering, f"block = 'block1' AND site = '{site}'", "layer")
    assert len(found) == 4 * 3
    for tokens, label, logit, layer in found:
        base = tokens["base"]
        logits = plain.run(model, ids(base), [(f"model.layers.{layer}.{module}", "output", torch.zeros_like)])
        assert float(logits[0, -1, label]) == pytest.approx(logit, abs=CLOSE)


@pytest.fixture(scope="module")
def ablation(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> sy.Results:
    folder = tmp_path_factory.mktemp("ablation")
    # With this seed each template of the ten pairs has a pair to take the mean from.
    changes = {"model: gpt2": f"model: {gpt2}", "num_pairs: 500, seed: 0": "num_pairs: 10, seed: 2612"}
    return run(example("mean-heads", folder, changes), folder)


def test_mean_ablation_has_a_cell_for_each_head_and_one_for_a_set(ablation: sy.Results) -> None:
    num_pairs = 5
    each = LAYERS * HEADS * num_pairs
    assert counts(ablation) == {"block0": (each, each), "block1": (num_pairs, num_pairs)}


@pytest.mark.parametrize(
    ("where", "heads"),
    [
        ("block = 'block0' AND layer = 5 AND head = 8", {5: (8,)}),
        ("block = 'block1'", {9: (6, 9), 10: (0,)}),
    ],
)
@torch.no_grad()
def test_a_head_gets_its_mean_over_the_sources_of_its_template(
    ablation: sy.Results, gpt2: Path, where: str, heads: Mapping[int, tuple[int, ...]]
) -> None:
    model = loaded(gpt2)
    sources = ablation.sql(
        """SELECT p.template, i.tokens['source'] FROM pairs p JOIN inputs i USING (base)
           WHERE split = 'train'"""
    ).fetchall()
    assert len(sources) > len({template for template, _ in sources})
    found = rows(ablation, where, "template")
    assert len(found) == 5
    for tokens, label, logit, template in found:
        base = tokens["base"]
        alike = [source for other, source in sources if other == template]

        def mean(path: str, heads: tuple[int, ...], alike: Sequence[Any] = alike) -> Tensor:
            held = [plain.record(model, ids(source), path, "input")[0] for source in alike]
            return torch.stack(held).mean(0)[:, columns_of(*heads)]

        changes = [
            (path, "input", put(columns_of(*some), mean(path, some)))
            for path, some in ((f"transformer.h.{n}.attn.c_proj", some) for n, some in heads.items())
        ]
        logits = plain.run(model, ids(base), changes)
        assert float(logits[0, -1, label]) == pytest.approx(logit, abs=CLOSE)
        assert float(plain.run(model, ids(base))[0, -1, label]) != pytest.approx(logit, abs=APART)
