"""Give odd files to `swapyard plan`, one after the other, and count how they ended.

    python -m tests.fuzz studies --seed 0 --num 500 [--first N] [--keep FOLDER] [--json]

A line for each fault, with the file where `--keep` says so; the last line sums up. The exit code is 1 where
there was a fault.
"""

__all__ = ["main"]

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path

from tests.fuzz.pairs_files import mutants as pairs_mutants
from tests.fuzz.sandbox import in_fork
from tests.fuzz.study_files import Mutant
from tests.fuzz.study_files import mutants as study_mutants
from tests.fuzz.verdict import Tally

_WARM = (
    *("duckdb", "pyarrow.parquet", "pyarrow.csv", "numpy", "tokenizers", "orchestrator.cli.run"),
    *("orchestrator.run.overview", "studies", "swapyard"),
)
_BESIDE = "from pathlib import Path\nPath('RAN').write_text('')\ndef ran(*_):\n    return 1\n"
"""Code beside a study that nobody has trusted."""


def main(arguments: Sequence[str]) -> int:
    """Fuzz as told; 0 where every file was planned or refused as it should be."""
    options = _parser().parse_args(arguments)
    root = Path(tempfile.mkdtemp(prefix="swapyard-fuzz-")).resolve()
    try:
        _settle(root, options.model)
        made = _mutants(options, root)
        tally = Tally(keep=options.keep)
        for number, mutant in enumerate(made):
            _one(root, options.first + number, mutant, tally, run_each=options.run_each)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(json.dumps(tally.to_json()) if options.json else "\n".join(tally.lines()), flush=True)
    return 1 if tally.faults else 0


def _mutants(options: argparse.Namespace, root: Path) -> Iterator[Mutant]:
    last = options.first + options.num
    if options.kind == "pairs":
        made = pairs_mutants(options.seed, last)
    else:
        made = study_mutants(options.seed, last, str(root / "tiny"))
    return islice(made, options.first, None)


def _settle(root: Path, model: Path | None) -> None:
    """Folders of this run's own for all that is written, a tiny model, and all that is slow to import."""
    if model is not None:
        shutil.copytree(model, root / "tiny")
    elif (child := os.fork()) == 0:
        from tests.torture.tiny import save_tiny_model

        save_tiny_model(root / "tiny", num_layers=3)
        os._exit(0)
    else:
        os.waitpid(child, 0)
    for name in ("home", "temporary", "cache"):
        (root / name).mkdir()
    os.environ |= {
        "HOME": str(root / "home"),
        "XDG_CONFIG_HOME": str(root / "home"),
        "XDG_CACHE_HOME": str(root / "cache"),
        "SWAPYARD_CACHE": str(root / "cache"),
        "TMPDIR": str(root / "temporary"),
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "OMP_NUM_THREADS": "1",
    }
    tempfile.tempdir = None
    for name in _WARM:
        import_module(name)


def _one(root: Path, number: int, mutant: Mutant, tally: Tally, *, run_each: int) -> None:
    folder = root / f"case{number}"
    folder.mkdir()
    for name, data in mutant.files.items():
        (folder / name).write_bytes(data)
    (folder / "beside.py").write_text(_BESIDE)
    shutil.copytree(root / "tiny", folder / "tiny", copy_function=os.link)
    before = {path.name for path in root.iterdir()}
    allowed = (folder / "runs", root / "cache", root / "temporary", root / "home")
    end = in_fork(_plan, folder, allowed)
    new = [path.name for path in root.iterdir() if path.name not in before]
    new += [path.name for path in folder.iterdir() if path.name not in (*mutant.files, *_OURS)]
    tally.add(mutant, end, new)
    if end.code == 0 and run_each and tally.planned % run_each == 0:
        tally.add_run(mutant, in_fork(_run_and_ask, folder, allowed))
    shutil.rmtree(folder)


_OURS = ("beside.py", "tiny", "runs", "__pycache__")


def _plan() -> None:
    _command("plan", "study.yaml")


def _run_and_ask() -> None:
    """Run the study, and ask for all that its pairs have: what was planned can be run and read."""
    _command("run", "study.yaml", "--executor", "inline", "--no-plots")
    for view in ("pairs", "results"):
        _command("query", f"FROM {view}", "--format", "csv")


def _command(*arguments: str) -> None:
    """One command; the process ends where it fails."""
    from orchestrator.cli import main as swapyard

    sys.argv = ["swapyard", *arguments]
    try:
        swapyard()
    except SystemExit as stop:
        if stop.code:
            raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("studies", "pairs"))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SWAPYARD_FUZZ_SEED", "0")))
    parser.add_argument("--num", type=int, default=int(os.environ.get("SWAPYARD_FUZZ_NUM", "500")))
    parser.add_argument("--first", type=int, default=0, help="the number of the first file")
    parser.add_argument("--model", type=Path, help="a tiny model's folder, where there is one already")
    parser.add_argument("--keep", type=Path, help="where files with faults are kept")
    parser.add_argument(
        "--run-each", type=int, default=0, help="every so many planned studies are run as well"
    )
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
