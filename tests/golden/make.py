"""Making the golden studies. Run once, at commit a55d0fc, with transformers 5.23.0 and torch 2.13.0 on a CPU.

    git worktree add --detach /some/where/format1 8e50dd2^      # the last version that wrote plan format 1
    PYTHONPATH=. python -m tests.golden.make /srv/golden /some/where/format1

A golden study is never made again: it is what users of that commit have on their disks. Each folder of
``tests/data/golden`` has a study.yaml; real runs of `swapyard`, those of `RECIPES`, have added

```
store/       the folder of its studies as the last command left it, without logs and lock
dump/        what every view of it showed then
finished/    what they showed once the same command had gone on to the end; not there where all was done
```

Three things are other than for a user: the host is called golden, slices of trainings are short, so that
there is a middle to be killed in, and files are merged above two where a recipe says so. (``/srv/golden`` is
where the autoencoder's file lay: its path is in the plan of ``fits``. Nothing else knows where it was made.)
"""

__all__ = ("main",)

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.golden.dumps import dump_study, write_dumps

HERE = Path(__file__).resolve().parents[2]
GOLDEN = HERE / "tests" / "data" / "golden"
SHARED = GOLDEN / "shared"
MADE_BY = "a55d0fc"

_SWAPYARD = """if True:
    import os, pathlib, socket, sys
    socket.gethostname = lambda: "golden"
    import orchestrator
    assert pathlib.Path(orchestrator.__file__).parents[1] == pathlib.Path(os.environ["GOLDEN_CODE"])
    from orchestrator.run.compactor import Compactor
    if "GOLDEN_FILES" in os.environ:
        Compactor.__init__.__kwdefaults__["most_files"] = int(os.environ["GOLDEN_FILES"])
    try:
        from orchestrator.run import training_loop as slices
    except ImportError:
        from orchestrator.run import schedule as slices
    slices.MIN_SLICE_S = 0.02
    from orchestrator.cli import main
    sys.argv[0] = "swapyard"
    main()
"""


@dataclass(frozen=True)
class Step:
    """One call of `swapyard run`."""

    options: Sequence[str] = ()
    file: str = "study.yaml"
    env: dict[str, str] = field(default_factory=dict)
    as_text: bool = False
    """Whether the study is given as text, and not as a file."""
    code: int = 0
    older: bool = False
    """Whether the version that wrote plans of format 1 does it."""


KILLED = -signal.SIGKILL


def _limit(number: int, **more: object) -> Step:
    return Step(options=("--limit", str(number)), **more)  # type: ignore[arg-type]


def _fault(text: str, **more: object) -> Step:
    return Step(env={"SWAPYARD_FAULTS": text}, code=KILLED, **more)  # type: ignore[arg-type]


RECIPES: dict[str, list[Step]] = {
    "done": [Step()],
    "half": [_limit(12), _limit(1), _fault("worker.written=kill@1")],
    "retried": [
        Step(file="first.yaml", env={"GOLDEN_LEAST": "0.9"}, code=3),
        Step(file="first.yaml", options=("--retry-failed",), env={"GOLDEN_LEAST": "-0.1"}, code=3),
        _limit(24, env={"GOLDEN_LEAST": "3.0"}, code=3),
    ],
    "merged": [_limit(1, env={"GOLDEN_FILES": "2"}) for _ in range(9)],
    "screened": [_fault("driver.plan=kill@2")],
    "selected": [_limit(6)],
    "training": [_fault("training.slice=kill@5")],
    "trained": [Step(code=3)],
    "fits": [Step(as_text=True)],
    "fits-half": [_limit(24)],
    "collected": [_limit(27)],
    "grown": [Step(file="first.yaml"), _limit(6, file="second.yaml"), Step()],
    "format1": [_limit(14, older=True)],
}
"""What was run, in order."""


def main() -> None:
    """Make what is not there yet."""
    work, older = (Path(one).resolve() for one in sys.argv[1:3])
    commit = subprocess.run(
        ["git", "log", "-1", "--format=%h", "--", "orchestrator", "studies", "workers"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert commit == MADE_BY, f"the product's code is of {commit}, and golden studies are of {MADE_BY}"
    make_shared()
    for name, steps in RECIPES.items():
        if not (GOLDEN / name / "store").exists():
            make(name, steps, work / name, older)
            print(name, "made")


def make(name: str, steps: Sequence[Step], work: Path, older: Path) -> None:
    """One golden study, with real runs in the folder `work`."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(GOLDEN / name, work)
    shutil.copytree(SHARED, work, dirs_exist_ok=True)
    for step in steps:
        run(step, work, older)
    if name == "training":
        while not _is_in_the_middle(work / "store" / name):
            run(steps[-1], work, older)
    _keep(name, work, "dump")
    store = GOLDEN / name / "store"
    shutil.copytree(work / "store", store, ignore=shutil.ignore_patterns("logs", ".lock"))
    if _is_done(name, work):
        return
    last = steps[-1]
    code = 3 if name == "retried" else 0
    run(Step(as_text=last.as_text, code=code), work, older)
    _keep(name, work, "finished")


def run(step: Step, work: Path, older: Path) -> None:
    """One call, on one core, with a cache of its own."""
    cache = work / "cache"
    code = older if step.older else HERE
    environment = {
        **os.environ,
        "GOLDEN_CODE": str(code),
        "PYTHONPATH": os.pathsep.join([str(code), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
        "SWAPYARD_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **step.env,
    }
    study = (work / step.file).read_text("utf-8") if step.as_text else step.file
    arguments = ("run", study, "--executor", "inline", "--no-plots", "--store", "store", *step.options)
    core = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-c", _SWAPYARD, *arguments],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, [core]),
    )
    print("   ", *step.options, done.returncode, done.stderr.strip().splitlines()[-1])
    assert done.returncode == step.code, done.stderr


def _keep(name: str, work: Path, what: str) -> None:
    from orchestrator.query.connection import VIEWS, connect

    with connect([work / "store" / name]) as connection:
        write_dumps(GOLDEN / name / what, dump_study(connection, tuple(VIEWS)))


def _is_done(name: str, work: Path) -> bool:
    from orchestrator.upkeep.status import read_status

    (status,) = read_status(work / "store", [name])
    return status.is_complete


def _is_in_the_middle(store: Path) -> bool:
    """Whether one training is done and another is somewhere between its ends."""
    from orchestrator.stages.train.store import TrainingFolder
    from orchestrator.store.storage import LocalStorage

    folder = TrainingFolder(LocalStorage(store))
    found = [folder.status(path.name) for path in (store / "trainings").iterdir()]
    told = sorted((one.status, one.step) for one in found)
    print("   ", told)
    assert [one for one, _ in told].count("done") < 2
    return [one for one, _ in told] == ["done", "running"] and told[1][1] > 60


def make_shared() -> None:
    """The inputs of all: a random GPT-2 with a tokeniser of whole words, and an autoencoder."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = SHARED / "tiny-gpt2"
    if folder.exists():
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    words = ["the", "capital", "of", "Spain", "Italy", "France", "Peru", "is", "Madrid", "Rome", "Paris"]
    spaced = [f"Ġ{word}" for word in (*words, "Lima", "a")]
    vocabulary = {word: at for at, word in enumerate(["[UNK]", *spaced, "The", "Lima", "Rome"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    config = GPT2Config(
        vocab_size=24,
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_positions=16,
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    width, features = 16, 12
    sae = {
        "W_enc": torch.randn(width, features) / 4,
        "b_enc": torch.randn(features) / 4,
        "W_dec": torch.randn(features, width) / 4,
        "b_dec": torch.randn(width) / 4,
    }
    save_file(sae, SHARED / "sae.safetensors")


if __name__ == "__main__":
    main()
