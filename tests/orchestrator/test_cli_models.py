"""Promise: `swapyard models` says what is there and where, fetches, and deletes only after asking."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.models import models, sites
from workers.errors import ModelError
from workers.model.cache import content_hash
from workers.model.fetch import SOURCES

CONFIG = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 8, "vocab_size": 9}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SWAPYARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put_model(folder: Path) -> Path:
    """What a fetch leaves, but small."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    (folder / "tokenizer.json").touch()
    (folder / "model.safetensors").write_bytes(bytes(2_000_000))
    return folder


def run(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(models, arguments, input=answer)


def line_of(name: str, output: str) -> str:
    return next(line for line in output.splitlines() if line.startswith(name))


def test_the_list_shows_what_is_fetched_and_where_the_cache_lies(cache: Path) -> None:
    assert "not fetched" in line_of("smollm2-135m", run().stdout)
    put_model(cache / "models" / "smollm2-135m")
    listed = run()
    assert listed.exit_code == 0 and listed.stderr == ""
    pinned = SOURCES["smollm2-135m"].pin.revision[:12]
    assert line_of("smollm2-135m", listed.stdout).endswith(f"(revision {pinned})")
    assert "fetched, 2 MB" in line_of("smollm2-135m", listed.stdout)
    assert "pythia-410m" in listed.stdout
    assert line_of("cache:", listed.stdout).startswith(f"cache: {cache} (2 MB")


def test_the_list_shows_the_built_in_models_with_their_options(cache: Path) -> None:
    lines = run().stdout.splitlines()
    for name, line in ((name, line_of(name, run().stdout)) for name in ("zoo:mlp", "zoo:gru", "zoo:gpt")):
        assert "built in" in line, name
    below = lines[lines.index(line_of("zoo:gru", run().stdout)) + 1].strip()
    assert below == "needs width, num_layers, seed, outputs; has per_step=False, vocab_size=None"


def test_the_list_says_which_families_resume_and_why_others_do_not(cache: Path) -> None:
    groups = {text.partition("\n")[0]: " ".join(text.split()) for text in run().stdout.split("\n\n")}
    (resumed,) = (text for title, text in groups.items() if title.startswith("resumed: "))
    assert " llama, " in resumed and " gpt2, " in resumed and "bloom" not in resumed
    (level,) = (text for title, text in groups.items() if title.startswith("resumed, "))
    assert " bloom, " in level
    (hooked,) = (text for title, text in groups.items() if title.startswith("hooked: "))
    assert "jamba (recurrent)" in hooked


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            "zoo:gru",
            ["cell_input", "reset_gate_output", "update_gate_output", "new_gate_output", "cell_output"],
        ),
        ("zoo:mlp", ["block_input", "mlp_activation", "block_output"]),
    ],
)
def test_the_sites_of_a_built_in_model_are_shown_without_its_options(model: str, expected: list[str]) -> None:
    shown = CliRunner().invoke(sites, [model])
    assert shown.exit_code == 0 and shown.stderr == ""
    lines = shown.stdout.splitlines()
    assert lines[0].startswith(f"{model}, made with {{width: 8, num_layers: 2, seed: 0, outputs: 2}}")
    assert [line.split()[0] for line in lines[3 : 3 + len(expected)]] == expected


def test_a_built_in_model_that_is_not_there_is_named() -> None:
    with pytest.raises(
        ModelError, match=r"there is no built-in model 'zoo:gru2'; there are zoo:mlp, zoo:gru"
    ):
        sites.callback("zoo:gru2", load=False, remote_code=False)  # type: ignore[misc]


def test_fetch_prints_only_the_folder_on_standard_output(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put_model(cache / "models" / "smollm2-135m")
    source = SOURCES["smollm2-135m"]
    pinned = replace(source, pin=replace(source.pin, revision=content_hash(folder)))
    monkeypatch.setitem(SOURCES, "smollm2-135m", pinned)
    assert run("fetch", "smollm2-135m").stdout == f"{folder}\n"


def test_clear_asks_and_leaves_everything_when_refused(cache: Path) -> None:
    folder = put_model(cache / "models" / "smollm2-135m")
    refused = run("clear", "smollm2-135m", answer="n\n")
    assert refused.exit_code == 1 and f"Delete {folder} (2 MB)?" in refused.stderr
    assert folder.exists()
    assert run("clear", "smollm2-135m", answer="y\n").exit_code == 0
    assert not folder.exists() and cache.exists()


def test_clear_without_a_name_empties_the_whole_cache(cache: Path) -> None:
    put_model(cache / "models" / "smollm2-135m")
    cleared = run("clear", "--yes")
    assert (cleared.exit_code, cleared.stdout, cleared.stderr) == (0, "", "freed 2 MB\n")
    assert not cache.exists()
    assert "nothing to clear" in run("clear").stderr


def test_clear_refuses_what_is_not_its_own() -> None:
    outcome = run("clear", "gpt2", "--yes")
    assert isinstance(outcome.exception, ModelError)
    assert "hub models lie in the hub's own cache" in str(outcome.exception)


def test_importing_the_command_loads_nothing_heavy() -> None:
    heavy = "('torch', 'transformers', 'ray', 'pydantic', 'huggingface_hub', 'tokenizers')"
    code = f"import sys, orchestrator.cli.models; print([m for m in {heavy} if m in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == "[]"
