"""Words that the transformers library knows, read from its source: importing it would load torch.

Which types of models it has, which of them are causal language models, which activations and which kinds of
rotary embeddings: tables at the top level of a file, whose keys are texts. Where one is not found, nothing is
known, and what is wrong is told when the model is loaded.
"""

__all__ = ["PLACES", "QUANTISED_KEYS", "activations", "causal_types", "model_types", "rope_types"]

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from workers.libraries import LibraryPlace

QUANTISED_KEYS = ("quantization_config", "compression_config")
"""Keys of a config that say that weights are quantised."""

_CAUSAL = ("models/auto/modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
_TYPES = ("models/auto/auto_mappings.py", "CONFIG_MAPPING_NAMES")
_ACTIVATIONS = ("activations.py", "ACT2CLS")
_ROPES = ("modeling_rope_utils.py", "ROPE_INIT_FUNCTIONS")


def causal_types() -> frozenset[str]:
    """Types of models that ``AutoModelForCausalLM`` loads; empty where that is not known."""
    return _keys(*_CAUSAL)


def model_types() -> frozenset[str]:
    """All types of models; empty where that is not known."""
    return _keys(*_TYPES) | causal_types()


def activations() -> frozenset[str]:
    """Names of activation functions; empty where that is not known."""
    return _keys(*_ACTIVATIONS)


def rope_types() -> frozenset[str]:
    """Kinds of rotary embeddings; empty where that is not known."""
    found = _keys(*_ROPES)
    return found | {"default"} if found else found


@cache
def _keys(file: str, name: str) -> frozenset[str]:
    """The texts that are keys of a table in a file of the library."""
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        return frozenset()
    try:
        tree = ast.parse((Path(spec.origin).parent / file).read_text("utf-8"))
    except (OSError, ValueError, SyntaxError):
        return frozenset()
    values = (_assigned(statement, name) for statement in tree.body)
    return frozenset(key for value in values if value is not None for key in _texts(value))


def _assigned(statement: ast.stmt, name: str) -> ast.expr | None:
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return None
    is_it = any(isinstance(target, ast.Name) and target.id == name for target in targets)
    return statement.value if is_it else None


def _texts(value: ast.expr) -> Iterator[str]:
    """Keys of ``{"a": …}``, or of a call with ``[("a", …), …]``."""
    keys: list[ast.expr | None] = []
    if isinstance(value, ast.Dict):
        keys = list(value.keys)
    elif isinstance(value, ast.Call):
        for argument in value.args:
            if isinstance(argument, ast.List | ast.Tuple):
                keys += [pair.elts[0] for pair in argument.elts if isinstance(pair, ast.Tuple) and pair.elts]
    for key in keys:
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value


def _probe() -> str | None:
    known = {
        "types of models": "llama" in model_types() and "t5" in model_types(),
        "causal language models": {"gpt2", "llama"} <= causal_types() and "t5" not in causal_types(),
        "activations": {"silu", "gelu_new"} <= activations(),
        "rotary embeddings": {"default", "linear", "llama3"} <= rope_types(),
    }
    lost = [what for what, is_known in known.items() if not is_known]
    return f"plan does not know which there are: {', '.join(lost)}" if lost else None


PLACES = (
    LibraryPlace(
        library="transformers",
        name="tables in its source: causal and other types, activations, kinds of rotary embeddings",
        used_for="telling while a study is planned what a config has that the library does not know",
        seen_with="5.20.0 to 5.24.0",
        without="what is unknown is told when the model is loaded",
        marks=("ACT2CLS", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "ROPE_INIT_FUNCTIONS"),
        probe=_probe,
    ),
)
