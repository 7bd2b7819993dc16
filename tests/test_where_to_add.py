"""Promise: what `docs/architecture.md` says under "Where to add" is all that it takes.

A metric, a site, a family, a task, a fit method, a view and a named query are added to a copy of the
packages, each by edits of no more files than the page says; one study then uses all of them at once, and
their numbers are right.
(A stage is added by `tests/orchestrator/test_stages.py`.)
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEW = ""
"""In place of the text before which something is put: the file is new."""
Edit = tuple[str, str, str]
"""A file, the text in it before which something is put, and what is put there."""

TASK = '''"""Countries and their neighbours."""

__all__ = ["Neighbours"]

from collections.abc import Iterator, Mapping
from typing import Any


class Neighbours:
    """Pairs of the two countries that the tiny model knows, in both orders."""

    name = "neighbours"
    filter = "none"
    aligned = True
    is_endless = False
    options = ()

    def candidates(self, *, seed: int, options: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """See `Task.candidates`."""
        for base, source in (("Spain", "Italy"), ("Italy", "Spain")):
            yield {
                "base": f"The capital of {base} is",
                "source": f"The capital of {source} is",
                "base_label": " Madrid",
                "label": " Rome",
            }
'''
FIT = """def _first_axes(spec: FitSpec, data: FitData) -> Fitted:
    from workers.intervene.features import PCA

    width = data.head_width()
    return Fitted(content=PCA(torch.eye(width)[:, : spec.rank], torch.zeros(width)))


"""
ADDITIONS: Mapping[str, tuple[Edit, ...]] = {
    "metric": (
        (
            "workers/metrics.py",
            '    Metric(\n        name="base_prob",',
            '    Metric(name="label_odds", sql="({label} - {base_label})::DOUBLE / 2",\n'
            '           means="half the logit difference", family=LABELS, study_name="label_odds"),\n',
        ),
    ),
    "site": (
        (
            "workers/model/sites.py",
            '    Site(name="mlp_output"',
            '    Site(name="mlp_up_output", about="the MLP\'s neurons before their activation"),\n',
        ),
        (
            "workers/model/families.py",
            "_SPLIT = (",
            "_PHI_UP = Spot('mlp.fc1', 'output')\n",
        ),
    ),
    "family": (
        (
            "workers/model/families.py",
            '    Family(\n        name="gpt_neox",',
            '    Family(name="phi", model_types=("phi",), blocks="model.layers", sites={\n'
            '        **_block_sites("self_attn", _SPLIT, "dense", "mlp", "fc2"),\n'
            '        "mlp_up_output": _PHI_UP}),\n',
        ),
    ),
    "task": (
        ("studies/tasks/neighbours.py", NEW, TASK),
        (
            "studies/tasks/__init__.py",
            "_ALL: Sequence[PairTask]",
            "from studies.tasks.neighbours import Neighbours\n\n",
        ),
        ("studies/tasks/__init__.py", "    RandomEmbeds(),\n", "    Neighbours(),\n"),
    ),
    "fit method": (
        ("workers/fit_methods.py", '        "probe": {},', '        "first_axes": {"rank": None},\n'),
        ("workers/fits/methods.py", "def _random_rotation(", FIT),
        ("workers/fits/methods.py", '        "probe": _probe,', '        "first_axes": _first_axes,\n'),
    ),
    "view": (
        ("orchestrator/query/needs.py", '    *("batches",', '    "lengths",\n'),
        ("orchestrator/query/needs.py", '    "fits": (', '    "lengths": ("inputs",),\n'),
        (
            "orchestrator/query/view_sql.py",
            '        "runs": _runs(',
            '        "lengths": f"""CREATE VIEW {prefix}v_lengths AS SELECT {told["l"]}, i.pair_id,\n'
            "            len(i.base_tokens) AS num_tokens FROM {prefix}inputs i\n"
            '            JOIN {prefix}lanes l ON l.lane = i.lane""",\n',
        ),
    ),
    "named query": (
        (
            "orchestrator/query/queries/longest.sql",
            NEW,
            "-- The longest base of each study.\n\n"
            "SELECT study, max(num_tokens) AS longest FROM lengths GROUP BY ALL\n",
        ),
    ),
}
"""Each kind of thing with the edits that add one."""

COMMANDS = """
import contextlib, json, sys, torch
from transformers import PhiConfig, PhiForCausalLM
from orchestrator.cli import main

torch.manual_seed(0)
config = PhiConfig(vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                   num_attention_heads=4, initializer_range=0.3, max_position_embeddings=64)
PhiForCausalLM(config).save_pretrained("phi")
for command in json.loads(sys.argv[1]):
    sys.argv = ["swapyard", *command]
    with contextlib.suppress(SystemExit):
        main()
"""
"""A tiny model of the new family, and commands of the copied packages, all in one process."""


def files_of(kind: str) -> set[str]:
    return {file for file, _, _ in ADDITIONS[kind]}


def add(house: Path, edit: Edit) -> None:
    name, before, text = edit
    path = house / name
    if before == NEW:
        assert not path.exists()
        path.write_text(text, "utf-8")
        return
    old = path.read_text("utf-8")
    assert before in old, f"{name} has no {before!r}"
    path.write_text(old.replace(before, text + before, 1), "utf-8")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages to which one of each was added."""
    folder = tmp_path_factory.mktemp("house")
    for package in ("orchestrator", "studies", "swapyard", "workers"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for edits in ADDITIONS.values():
        for edit in edits:
            add(folder, edit)
    return folder


def run(house: Path, folder: Path, commands: list[list[str]]) -> None:
    """Commands of the copied packages."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(house)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr


def test_what_is_added_by_the_page_works(house: Path, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "phi").mkdir()
    shutil.copy(tiny_folder / "tokenizer.json", tmp_path / "phi")
    place = {"layers": [0, 1], "position": -1}
    study = {
        "study": "added",
        "model": "./phi",
        "task": {"name": "neighbours", "num_pairs": 2, "seed": 0},
        "metrics": ["label_odds", "logit_diff", "iia"],
        "fits": {"axes": {"method": "first_axes", "rank": 3}},
        "sweep": [
            {"name": "named", "site": "mlp_up_output", **place},
            {"name": "path", "sites": [f"model.layers.{n}.mlp.fc1" for n in (0, 1)], "position": -1},
            {"name": "fit", "site": "mlp_up_output", "subspace": "axes", **place},
            {"name": "dims", "site": "mlp_up_output", "subspace": "0:3", **place},
        ],
    }
    (tmp_path / "added.yaml").write_text(json.dumps(study), "utf-8")
    sql = (
        "SELECT block, pair_id, coalesce(layer, regexp_extract(site, '\\d+')::INT) AS at,"
        " label_odds, logit_diff, tier FROM results ORDER BY ALL"
    )
    run(
        house,
        tmp_path,
        [
            ["run", "added.yaml", "--executor", "inline", "--no-plots"],
            ["query", sql, "-o", "rows.json"],
            ["query", "longest", "-o", "longest.json"],
        ],
    )
    rows = json.loads((tmp_path / "rows.json").read_text("utf-8"))
    assert len(rows) == 16
    assert all(row["label_odds"] == pytest.approx(row["logit_diff"] / 2) for row in rows)
    assert {row["tier"] for row in rows} == {"resumed"}
    by_block = {
        block: [
            row["logit_diff"]
            for row in sorted(rows, key=lambda r: (r["at"], r["pair_id"]))
            if row["block"] == block
        ]
        for block in ("named", "path", "fit", "dims")
    }
    assert by_block["named"] == pytest.approx(by_block["path"], abs=1e-5)
    assert by_block["fit"] == pytest.approx(by_block["dims"], abs=1e-5)
    assert by_block["named"] != pytest.approx(by_block["dims"], abs=1e-3)
    assert json.loads((tmp_path / "longest.json").read_text("utf-8")) == [{"study": "added", "longest": 5}]


def test_the_page_says_how_many_files_it_takes() -> None:
    """Each kind has a row: ``| a metric | `workers/metrics.py` | … |``."""
    page = (
        (ROOT / "docs/architecture.md")
        .read_text("utf-8")
        .partition("## Where to add")[2]
        .partition("\n## ")[0]
    )
    rows = {
        cells[0].strip().partition(" ")[2]: set(re.findall(r"`([\w/.]+)`", cells[1]))
        for line in page.splitlines()
        if line.startswith("| a ") and (cells := line.strip("|").split("|"))
    }
    for kind in ADDITIONS:
        said = {name.replace("NAME", "neighbours" if kind == "task" else "longest") for name in rows[kind]}
        assert files_of(kind) == said, kind
    assert "stage" in rows


@pytest.mark.parametrize("page", ["architecture", "internals"])
def test_files_that_a_page_names_are_there(page: str) -> None:
    """By their path, or by their name where the folder was said before."""
    known = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("[!.]*/**/*.py")]
    named = re.findall(r"`([\w./-]+\.py)`", (ROOT / "docs" / f"{page}.md").read_text("utf-8"))
    lost = [
        name
        for name in named
        if "NAME" not in name and not any(f"/{one}".endswith(f"/{name}") for one in known)
    ]
    assert len(named) > 20 and lost == []
