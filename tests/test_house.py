"""Promise: the house keeps its shape: imports point one way, public names are few, files stay small."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import swapyard
from workers.libraries import TORCH_FREE

ROOT = Path(__file__).parents[1]
PACKAGES = ("orchestrator", "studies", "workers")
FILES = {package: sorted((ROOT / package).rglob("*.py")) for package in PACKAGES}
MODULES = [*(path for paths in FILES.values() for path in paths), *sorted((ROOT / "swapyard").glob("*.py"))]
OTHERS = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
MAY_IMPORT = {
    "workers": {"workers"},
    "studies": {"studies", "workers"},
    "orchestrator": {"orchestrator", "studies", "workers"},
}
VOCABULARY = [
    *("workers.causal", "workers.code", "workers.errors", "workers.fit_methods", "workers.libraries"),
    *("workers.metrics", "workers.vocabulary"),
    *(f"workers.model.{name}" for name in ("capability", "facts", "sites", "spec")),
]
"""All that studies know of workers; of the libraries, those whose file loads no torch."""
LAYERS = (
    *(("workers.errors", "workers.limits", "workers.children", "workers.metrics", "workers.fit_methods"),),
    *(("workers.libraries",), ("workers.tolerances",)),
    (
        *("workers.vocabulary", "workers.model.spec", "workers.model.capability", "workers.model.facts"),
        *("workers.model.sites", "workers.model.families", "workers.model.site_identities"),
        *("workers.code", "workers.autoencoders", "workers.digests"),
    ),
    ("workers.causal", "workers.zoo"),
    ("workers.model",),
    ("workers.intervene",),
    ("workers.engine.replay",),
    ("workers.engine",),
    ("workers.fits", "workers.iit"),
)
"""Modules and folders, each layer above those that it may import; a module counts by its longest name."""
HEAVY = {"torch", "transformers", "ray"}
MOST_LINES = 400
PUBLIC = [
    *(
        "Block",
        "ModelSpec",
        "Plot",
        "Screen",
        "Study",
        "Task",
        "Train",
        "UnitSpec",
        "ValueSpec",
        "load_study",
    ),
    *("Limits", "Outcome", "Overview", "Results", "RunOptions", "open_results", "plan", "run"),
    *(
        "ClusterError",
        "DivergedError",
        "HeldError",
        "JobsFailedError",
        "ModelError",
        "NotYetError",
        "QueryError",
    ),
    *("RunError", "StorageFullError", "StoreError", "StudyError", "SwapyardError"),
    *("From", "IntervenableModel", "Intervened", "IntervenedRun", "Mean", "Noise", "Unit", "per_example"),
    *("BoundlessRotation", "LowRankRotation", "Mask", "PCA", "Rotation", "SparseAutoencoder", "Subspace"),
    *("Box", "Coordinates", "Fit", "FittedUnit", "fit"),
    *("CausalModel", "CausalModule", "Sampler"),
]
COMMANDS = [
    *("plan", "run", "status", "logs", "query", "plot", "sites", "models", "trust", "doctor"),
    *("mv", "cp", "rm", "export", "import"),
]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def is_in(module: str, folders: Iterable[str]) -> bool:
    """Whether a module, or a name in it, is one of these or lies in one."""
    return any(module == folder or module.startswith(f"{folder}.") for folder in folders)


def layer_of(module: str) -> int | None:
    """The number of a module's layer; None where it is in none."""
    names = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    return names[max(found, key=len)] if (found := [one for one in names if is_in(module, [one])]) else None


def imported(path: Path) -> Iterator[list[str]]:
    """The parts of the name of everything that a file imports, in functions too."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{name_of(path)} imports without a package"
            yield from (f"{node.module}.{alias.name}".split(".") for alias in node.names)


def loaded_with(modules: list[str]) -> set[str]:
    """What of `HEAVY` a fresh interpreter has loaded once it has imported `modules`."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "", "importing has effects"
    return HEAVY & set(done.stdout.split())


def test_imports_point_one_way() -> None:
    ours = {*PACKAGES, "swapyard"}
    wrong = [
        f"{name_of(path)} imports {name[0]}"
        for package, paths in FILES.items()
        for path in paths
        for name in imported(path)
        if name[0] in ours - MAY_IMPORT[package]
    ]
    assert wrong == []


def test_layers_of_workers_import_downwards() -> None:
    """Among them: loading a model imports nothing of what runs jobs on it."""
    files = {module_name(path): path for path in FILES["workers"]}
    unplaced = [module for module in files if layer_of(module) is None and module != "workers"]
    wrong = [
        f"{module} imports {'.'.join(name)}"
        for module, path in files.items()
        for name in imported(path)
        if (theirs := layer_of(".".join(name))) is not None and theirs > (layer_of(module) or 0)
    ]
    assert (unplaced, wrong) == ([], [])


def test_modules_import_in_no_circle() -> None:
    """Also inside functions, and where only types are checked."""
    files = {module_name(path): path for path in MODULES}
    below = {
        module: {
            # What a package's own file has is imported from the package, a file of it for itself.
            whole if (whole := ".".join(name)) in files else ".".join(name[:-1])
            for name in imported(path)
        }
        - {module}
        for module, path in files.items()
    }
    # What imports nothing that is left goes, again and again: a circle stays.
    while free := [module for module, found in below.items() if not found & below.keys()]:
        for module in free:
            del below[module]
    assert sorted(below) == []


def test_studies_know_only_the_vocabulary_of_workers() -> None:
    wrong = [
        f"{name_of(path)} imports {'.'.join(name)}"
        for path in FILES["studies"]
        for name in imported(path)
        if (name[0] == "workers" and not is_in(".".join(name), VOCABULARY))
        or (name[:2] == ["workers", "libraries"] and name[2] not in TORCH_FREE)
    ]
    assert wrong == []


def test_the_vocabulary_loads_no_model_library() -> None:
    assert loaded_with(VOCABULARY + [f"workers.libraries.{name}" for name in TORCH_FREE]) == set()


def test_neither_do_studies_and_orchestrator() -> None:
    """What needs a model imports it where it is used."""
    assert loaded_with([module_name(path) for path in (*FILES["studies"], *FILES["orchestrator"])]) == set()


def test_every_module_says_what_it_is_and_what_is_public() -> None:
    for path in MODULES:
        tree = parsed(path)
        assert ast.get_docstring(tree), f"{name_of(path)} does not say what it is"
        lists = [
            node for node in tree.body if isinstance(node, ast.Assign) and "__all__" in ast.unparse(node)
        ]
        has_content = len(tree.body) > 1
        assert len(lists) == has_content, f"{name_of(path)} does not say what is public"


def test_what_is_said_to_be_public_is_there() -> None:
    for path in MODULES:
        module = importlib.import_module(module_name(path))
        missing = [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]
        assert missing == [], f"{name_of(path)} has no {missing}"


def test_no_file_is_a_dumping_ground() -> None:
    lengths = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in (*MODULES, *OTHERS)}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_the_public_names_are_these() -> None:
    assert sorted(swapyard.__all__) == sorted(PUBLIC)


def test_the_commands_are_these() -> None:
    program = Path(sys.executable).with_name("swapyard")
    shown = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  (\w+)  ", shown.partition("Commands:")[2], re.MULTILINE) == COMMANDS


def test_parquet_is_read_on_the_calling_thread() -> None:
    """pyarrow's own threads abort a process that ends right after reading: one `status` in nine did."""
    for path in MODULES:
        text = path.read_text("utf-8")
        assert "read_table(" not in text.replace("_read_table(", ""), name_of(path)
        assert "ParquetFile(" not in text or name_of(path) == "workers/libraries/pyarrow.py", name_of(path)
