"""Promise: the plans of the bundled studies stay as they are, table by table: a change of one is meant, and
said in the changelog, since rows of earlier runs are found by the numbers and ids in them.

``python -m tests.orchestrator.plan.test_golden_plans`` prints the digests of today.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from orchestrator.plan.planner import Planner
from orchestrator.plan.tables import Plan
from studies import load_study
from studies.load import BUNDLED
from studies.tasks import find_task
from tests.orchestrator.plan.world import Oracle

FEW = {"num_train": 40, "num_test": 12, "num_pairs": 10}
"""Sizes of tasks: their own would take a minute."""
LAYERS, WIDTH = 3, 16
ELSEWHERE = ("version", "lanes", "lane_numbers", "inputs", "digest")
"""Parts of a plan's head that say which release made it, and where its models lie."""
GOLDEN: dict[str, dict[str, str]] = json.loads(
    Path(__file__).with_name("golden_plans.json").read_text(encoding="utf-8")
)


def language_model(folder: Path) -> Path:
    """A Llama of zeros with a token for each word of the bundled studies, written without torch."""
    folder.mkdir()
    rows = list(find_task("capitals").candidates(seed=0, options={}))
    texts = [row[name] for row in rows for name in ("base", "base_label")]
    words = sorted({word for text in texts for word in text.split()} | {"Madrid", "Rome"})
    tokenizer = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(["?", *words])}, unk_token="?")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    size = len(words) + 1
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_attention_heads": 2,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "vocab_size": size,
    }
    (folder / "config.json").write_text(json.dumps(config))
    square, row = np.zeros((WIDTH, WIDTH), np.float32), np.zeros(WIDTH, np.float32)
    weights: dict[str, np.ndarray] = {
        name: np.zeros((size, WIDTH), np.float32) for name in ("model.embed_tokens", "lm_head")
    }
    weights["model.norm"] = row
    for layer in range(LAYERS):
        begin = f"model.layers.{layer}"
        weights |= {f"{begin}.self_attn.{name}_proj": square for name in "qkvo"}
        weights |= {f"{begin}.mlp.{name}_proj": square for name in ("gate", "up", "down")}
        weights |= {f"{begin}.{name}_layernorm": row for name in ("input", "post_attention")}
    save_file({f"{name}.weight": value for name, value in weights.items()}, folder / "model.safetensors")
    return folder


def answers(folder: Path) -> dict[Any, int]:
    """Right answers to the prompts about capitals, but to those about France."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = find_task("capitals").candidates(seed=0, options={})
    said = {row["base"]: row["base_label"] for row in rows if "France" not in row["base"]}
    return {tuple(tokenizer.encode(base).ids): tokenizer.encode(label).ids[0] for base, label in said.items()}


def plan_of(name: str, folder: Path, scorer: Oracle) -> Plan:
    """The plan of a bundled study, with fewer pairs, on tiny models; trainings are taken to be done."""
    written = yaml.safe_load((BUNDLED / f"{name}.yaml").read_text(encoding="utf-8"))
    if "model" in written and isinstance(written["model"], str):
        written["model"] = str(folder)
    task = written.get("task", {})
    task |= {size: number for size, number in FEW.items() if size in task}
    planner = Planner(load_study(yaml.safe_dump(written)), say=lambda line: None)
    found = planner.draft(scorer, trained=planner.trained_paths)
    assert found.complete
    return found.plan


def digests(plan: Plan) -> dict[str, str]:
    """A digest of each table, and of the head; of a model in a folder not what its place is in."""
    is_built_in = all(lane.spec.ref.startswith("zoo:") or lane.training for lane in plan.lanes.values())
    left_out = set() if is_built_in else {"cell_id", "model"}
    head = {key: value for key, value in plan.head.items() if key not in ELSEWHERE}
    tables = {
        name: table.drop_columns(sorted(left_out & {*table.column_names}))
        for name, table in plan.tables.items()
    }
    content: dict[str, Any] = {name: [str(table.schema), table.to_pylist()] for name, table in tables.items()}
    return {name: _digest(said) for name, said in sorted({**content, "head": head}.items())}


def _digest(said: Any) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Oracle]:
    folder = language_model(tmp_path_factory.mktemp("models") / "model")
    return folder, Oracle(answers(folder))


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_the_plan_of_a_bundled_study_is_as_it_was(name: str, model: tuple[Path, Oracle]) -> None:
    assert digests(plan_of(name, *model)) == GOLDEN[name]


def test_every_bundled_study_has_a_golden_plan() -> None:
    assert sorted(GOLDEN) == sorted(path.stem for path in BUNDLED.glob("*.yaml"))


def _print_all(folder: Path) -> None:
    scorer = Oracle(answers(language_model(folder)))
    names = sorted(path.stem for path in BUNDLED.glob("*.yaml"))
    print(json.dumps({name: digests(plan_of(name, folder, scorer)) for name in names}, indent=1))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        _print_all(Path(place) / "model")
