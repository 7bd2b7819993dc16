"""Names of the transformers library that may move: its cache classes, the keywords of `forward`, its outputs.

Keywords are found by calling a model and looking whether the cache was filled, never by reading signatures
alone: version 5.24 renamed ``past_key_values`` to ``cache`` in every model; the old name goes in 5.40.

Shapes: B rows, T tokens, V vocabulary.
"""

__all__ = [
    "NO_KEYWORDS",
    "Keywords",
    "attention_of",
    "cache_class",
    "find_keywords",
    "hidden_keyword",
    "layer_class",
    "logits_of",
    "quiet",
    "silent",
    "text_config",
    "with_positions",
]

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.libraries.torch import is_of_machine

_CACHE_MODULE = "transformers.cache_utils"
_CACHE_KEYWORDS = ("cache", "past_key_values")
_USE_CACHE, _POSITIONS, _VECTORS, _IDS = "use_cache", "position_ids", "inputs_embeds", "input_ids"
_NEVER_A_CACHE = frozenset(
    {_IDS, _USE_CACHE, _POSITIONS, _VECTORS, "self", "attention_mask", "labels", "logits_to_keep"}
)
_HIDDEN = "hidden_states"
_CACHE_METHODS = ("update", "get_seq_length", "get_mask_sizes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keywords:
    """Argument names of a model's forward, as calls of it have shown them; None for what it does not take."""

    cache: str | None = None
    use_cache: str | None = None
    positions: str | None = None
    vectors: str | None = None
    """Of vectors in the place of token ids."""

    def without_cache(self) -> dict[str, object]:
        """Arguments of a run that makes no key/value cache."""
        return {} if self.use_cache is None else {self.use_cache: False}

    def with_cache(self, cache: object) -> dict[str, object]:
        """Arguments of a run that goes on from `cache`, or fills it."""
        assert self.cache is not None, "only asked of a model whose forward takes a cache"
        return {self.cache: cache} | ({} if self.use_cache is None else {self.use_cache: True})

    def at(self, positions: Tensor) -> dict[str, object]:
        """Arguments that tell the tokens' positions [B, T]; none where the model counts them itself."""
        return {} if self.positions is None else {self.positions: positions}


NO_KEYWORDS = Keywords()
"""Of a module that takes nothing but its input."""


def find_keywords(
    module: nn.Module, tokens: Tensor, width: int | None, make_cache: Callable[[Callable[[], None]], object]
) -> Keywords:
    """Keywords of a decoder's forward, found by calling it.

    Args:
        module: a model of the library.
        tokens: [B, T], what it is called with.
        width: of the vectors that take the place of tokens; None where it is not known.
        make_cache: gives a fresh cache, which calls its argument as soon as keys and values reach it.

    Raises:
        Exception: what breaks the device, or has no room in memory.
    """
    named = list(inspect.signature(module.forward).parameters)

    def works(**arguments: object) -> bool:
        try:
            with torch.inference_mode(), silent():
                module(**arguments)
        except Exception as error:
            if is_of_machine(error):
                raise
            return False
        return True

    def fills(name: str, others: Mapping[str, object]) -> bool:
        filled: list[bool] = []
        return works(**{_IDS: tokens, name: make_cache(lambda: filled.append(True)), **others}) and bool(
            filled
        )

    known = sorted(_CACHE_KEYWORDS, key=lambda name: name not in named)
    others = [name for name in named if name not in (*_NEVER_A_CACHE, *known)]
    use_cache = _USE_CACHE if works(**{_IDS: tokens, _USE_CACHE: False}) else None
    asked = {} if use_cache is None else {use_cache: True}
    cache = next((name for name in (*known, *others) if fills(name, asked)), None)
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
    quiet_run = {} if use_cache is None else {use_cache: False}
    dtype = next(module.parameters()).dtype
    vectors = None if width is None else torch.zeros(*tokens.shape, width, device=tokens.device, dtype=dtype)
    return Keywords(
        cache=cache,
        use_cache=use_cache,
        positions=_POSITIONS if works(**{_IDS: tokens, _POSITIONS: positions, **quiet_run}) else None,
        vectors=_VECTORS if vectors is not None and works(**{_VECTORS: vectors, **quiet_run}) else None,
    )


def hidden_keyword(arguments: Mapping[str, object]) -> str | None:
    """Name of the argument that is a block's hidden state, among those given by keyword; None where none is.

    ``hidden_states`` in every model seen; elsewhere the only activations [B, T, W] there are.
    """
    if isinstance(arguments.get(_HIDDEN), Tensor):
        return _HIDDEN
    alike = [
        name
        for name, value in arguments.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 3
    ]
    return alike[0] if len(alike) == 1 else None


class _NoCache:
    """Stand-in where the library has no cache with layers: no model fills it, so none is resumed."""

    def __init__(self, layers: object) -> None:
        self.layers = layers


def cache_class() -> type:
    """Class that the library takes for a key/value cache, with a list of layers; a stand-in without one."""
    try:
        return _by_name_or_role("Cache", lambda kind: "layers" in inspect.signature(kind.__init__).parameters)
    except (LookupError, ImportError):
        return _NoCache


def layer_class() -> type:
    """Class of one layer of a cache that keeps every token; `object` where the library has none."""
    try:
        return _by_name_or_role("DynamicLayer", _is_layer)
    except (LookupError, ImportError):
        return object


def _is_layer(kind: Any) -> bool:
    """Whether it is one layer that grows as it likes: made of nothing, and no cache of several."""
    try:
        kind()
    except Exception:
        return False
    return not issubclass(kind, cache_class())


def _by_name_or_role(name: str, fits: Callable[[Any], bool]) -> type:
    module = importlib.import_module(_CACHE_MODULE)
    found: object = getattr(module, name, None)
    if isinstance(found, type):
        return found
    own = [
        kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == _CACHE_MODULE
    ]
    able = [kind for kind in own if all(hasattr(kind, method) for method in _CACHE_METHODS) and fits(kind)]
    # The others are made from it.
    roots = [kind for kind in able if not any(other in able for other in kind.__mro__[1:])]
    if not roots:
        raise LookupError(f"{_CACHE_MODULE} has no class {name}, nor one that does what it did")
    return roots[0]


def logits_of(output: object) -> Tensor:
    """Logits [B, T, V] in what a language model's forward returned.

    Raises:
        AttributeError: there are none.
    """
    found = getattr(output, "logits", None)
    if isinstance(found, Tensor):
        return found
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else ()
    for value in values:
        if isinstance(value, Tensor) and value.dim() == 3 and value.is_floating_point():
            return value
    raise AttributeError(f"a {type(output).__name__} has no logits")


def text_config(config: object) -> object:
    """Config of the text model, which models of text and images keep one level down."""
    find = getattr(config, "get_text_config", None)
    return find() if callable(find) else getattr(config, "text_config", None) or config


def attention_of(module: nn.Module) -> str:
    """Name of the attention kernel, such as ``sdpa``; ``unknown`` where the library does not say."""
    config = getattr(module, "config", None)
    return str(getattr(config, "_attn_implementation", None) or "unknown")


@contextmanager
def silent() -> Iterator[None]:
    """Calls without Python's warnings: a keyword that is going away is ours to see, not a user's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Loading without the library's own warnings and progress bars; the caller's settings come back."""
    from transformers.utils import logging

    library: Any = logging
    names = ("get_verbosity", "is_progress_bar_enabled", "set_verbosity_error", "disable_progress_bar")
    if any(not callable(getattr(library, name, None)) for name in names):
        with silent():
            yield
        return
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()


def with_positions(
    module: nn.Module, given: Mapping[str, object], positions: Tensor
) -> dict[str, object] | None:
    """Arguments of a forward with the positions [B, T] of its tokens, unless `given` has some; None where the
    forward takes none."""
    if given.get(_POSITIONS) is not None:
        return dict(given)
    if _POSITIONS not in inspect.signature(module.forward).parameters:
        return None
    return {**given, _POSITIONS: positions}
