"""A checkpoint's weights in the model that its config describes: every tensor of it has its place, or it is
refused with a list; what a checkpoint lacks is drawn from a seed only where the model's spec says so."""

__all__ = ["Differences", "Steps", "draw", "read_checkpoint"]

import hashlib
import json
import logging
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from workers.errors import ModelError
from workers.libraries.torch import DispatchMode
from workers.libraries.transformers_loading import not_put_together
from workers.model.weight_checks import weight_files
from workers.model.weight_files import odd_ones, stored_tensors
from workers.vocabulary import ModelSpec

_MOST_NAMED = 10
"""Tensors of one kind that a message names."""

_CONSTANTS = re.compile(
    r"(^|\.)(attn|attention)\.(bias|masked_bias|causal_mask)$"
    r"|(^|\.)(rotary\w*|rope)\.(inv_freq|cos_cached|sin_cached)$"
    r"|(^|\.)position_ids$"
    r"|(^|\.)embed_positions\.(weights|_float_tensor)$"
)
"""Tensors that older releases of the library saved and newer ones compute: causal masks, rotary frequencies,
position numbers, sinusoidal embeddings. The library leaves most of them out of its lists, but not for each
family."""

_log = logging.getLogger(__name__)

_MEMORY_ERRORS = (MemoryError, torch.OutOfMemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """Tensors in which a checkpoint and the model of its config differ, as the model names them."""

    missing: tuple[str, ...] = ()
    """The model has them, the checkpoint has not."""
    unexpected: tuple[str, ...] = ()
    """The checkpoint has them, the model has no place for them."""
    mismatched: tuple[tuple[str, Sequence[int], Sequence[int]], ...] = ()
    """Both have them: the name, the shape in the checkpoint, the shape in the model."""

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Self:
        """From what the library says of a load, without the constants that it computes itself."""
        return cls(
            missing=tuple(sorted(info["missing_keys"])),
            unexpected=tuple(sorted(key for key in info["unexpected_keys"] if not _CONSTANTS.search(key))),
            mismatched=tuple(sorted((n, tuple(has), tuple(is_)) for n, has, is_ in info["mismatched_keys"])),
        )

    @property
    def without_value(self) -> tuple[str, ...]:
        """The model's tensors that the checkpoint gives no value."""
        return (*self.missing, *(name for name, _, _ in self.mismatched))

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        """Number of each kind, and the first of them by name."""
        shapes = [f"{name} ({list(has)}, the model's {list(is_)})" for name, has, is_ in self.mismatched]
        kinds = [
            (self.missing, "missing in the checkpoint"),
            (self.unexpected, "unexpected, without a place in the model"),
            (shapes, "mismatched in shape"),
        ]
        return "; ".join(_listed(names, what) for names, what in kinds if names)


def read_checkpoint(folder: Path, spec: ModelSpec) -> nn.Module:
    """The causal language model in `folder`, on the CPU (safetensors only, nothing is fetched).

    Raises:
        ModelError: it cannot be read, or has not exactly the model's tensors and `spec` does not say
            ``missing_weights: initialise``.
    """
    if not weight_files(folder, spec.ref):
        raise ModelError(
            f"{spec.ref} cannot be loaded from {folder}: it has no weights (model.safetensors, or shards and"
            " model.safetensors.index.json): it can be planned for, not run; copy them there"
        )
    if spec.missing_weights is None:
        module, differences = _load(folder, spec)
        if differences:
            raise ModelError(_refusal(folder, spec, module, differences))
        return module
    assert spec.seed is not None, "a spec has both or none"
    steps = Steps()
    with _seeded(spec.seed), steps:
        module, differences = _load(folder, spec)
    draw(module, differences.without_value, steps, spec.seed)
    _log.warning("%s: drawn from seed %d, or left out: %s", spec.ref, spec.seed, differences or "nothing")
    return module


def _load(folder: Path, spec: ModelSpec) -> tuple[nn.Module, Differences]:
    from transformers import AutoModelForCausalLM

    library: Any = AutoModelForCausalLM
    said: list[str] = []
    try:
        with _quiet(said):
            module, info = library.from_pretrained(
                folder,
                dtype=getattr(torch, spec.dtype),
                attn_implementation=spec.attention,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=spec.trust_remote_code,
                output_loading_info=True,
                # So that all that differs is told: without it this kind is an error without names.
                ignore_mismatched_sizes=True,
            )
    except _MEMORY_ERRORS:
        raise
    except Exception as error:  # A config that makes no model raises whatever the model's own code raises.
        if "trust_remote_code" in str(error) and not spec.trust_remote_code:
            raise ModelError(
                f"{spec.ref} needs the Python code in {folder}, and nobody has said that it may be run;"
                " if you trust it: --trust-remote-code (in Python: trust_remote_code=True)"
            ) from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        apart = _apart(folder, said) if isinstance(error, RuntimeError) else ""
        raise ModelError(
            f"{spec.ref} cannot be loaded from {folder}: {reason}{apart}; check config.json, the weights and"
            " the memory that is free, or save the model again (save_pretrained)"
        ) from error
    return module, Differences.of(info)


def _apart(folder: Path, said: Sequence[str]) -> str:
    """Text on tensors of the model that could not be put together from a file's, as those of all experts are,
    and which of the file's stand out; the library says it only in its log, and without it the second is
    left."""
    names = not_put_together("\n".join(said))
    try:
        odd = odd_ones(stored_tensors(folder))
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        odd = []
    kinds = [
        (names, "that the checkpoint has not all parts of, or in other shapes"),
        (odd, "that stand out in it"),
    ]
    return "".join(f"; {_listed(found, what)}" for found, what in kinds if found)


def _refusal(folder: Path, spec: ModelSpec, module: nn.Module, found: Differences) -> str:
    name = type(module).__name__
    # As it is written in the file: the library puts the class that was loaded into the model's config.
    saved_as = _architectures(folder)
    of = f" (config.json was saved with {', '.join(saved_as)})" if saved_as and name not in saved_as else ""
    return (
        f"{spec.ref} cannot be loaded from {folder} as {name}{of}: its weights are not this model's: {found};"
        " give a checkpoint of this model or correct its config.json; to draw what has no value at random and"
        " leave out what is unexpected, add missing_weights: initialise and a seed to the model, as in"
        f" {{ref: {spec.ref}, missing_weights: initialise, seed: 0}}"
    )


def _architectures(folder: Path) -> list[str]:
    written = json.loads((folder / "config.json").read_text("utf-8")).get("architectures")
    return [str(name) for name in written] if isinstance(written, list) else []


def _listed(names: Sequence[str], what: str) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{len(names)} {what}: {', '.join(names[:_MOST_NAMED])}{more}"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """For what a class draws beside the tensor itself; the caller's random state comes back."""
    with torch.random.fork_rng(devices=[]):
        # Not `torch.manual_seed`, which seeds accelerators too.
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def _quiet(said: list[str]) -> Iterator[None]:
    """Without the library's warnings, which are added to `said`, and its progress bars; the caller's settings
    come back."""
    from transformers.utils import logging as library_logging

    library: Any = library_logging
    logger, bars = logging.getLogger("transformers"), library.is_progress_bar_enabled()
    handlers, level, propagate = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [_WarningsKeeper(said, handlers)], False
    logger.setLevel(logging.WARNING)
    library.disable_progress_bar()
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
        if bars:
            library.enable_progress_bar()


class _WarningsKeeper(logging.Handler):
    """Keeps warnings; errors go where they went."""

    def __init__(self, said: list[str], others: Sequence[logging.Handler]) -> None:
        super().__init__()
        self._said, self._others = said, others

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(record.getMessage())
        for handler in self._others if record.levelno >= logging.ERROR else ():
            handler.handle(record)


_CHUNK = 1 << 20
"""Numbers that are drawn at once, in float64."""


class Steps(DispatchMode):  # type: ignore[misc]
    """Record of every operation in place on a tensor in memory, in order, while this is the context.

    A model's class decides how a tensor begins (a normal draw of some width, ones, zeros in one row): the
    library's steps are watched while it loads, and then done again on a tensor in float32, with numbers drawn
    from the seed and the tensor's name. So neither the order in which a release of the library visits
    modules, nor what else is missing, nor threads, nor the dtype of the lane change what is drawn.

    The tensors are kept, so that no later one takes the memory of one that was let go.
    """

    def __init__(self) -> None:
        super().__init__()
        self._steps: dict[int, list[tuple[object, Tensor, tuple[object, ...], Mapping[str, object]]]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[object, ...] = (), kwargs: Any = None
    ) -> object:
        """Do the operation; raises what it raises."""
        given = kwargs or {}
        first = args[0] if args else None
        is_in_place = func.__name__.partition(".")[0].endswith("_")
        if is_in_place and isinstance(first, Tensor) and not first.is_meta:
            step = (func, first, args[1:], given)
            self._steps.setdefault(first.untyped_storage().data_ptr(), []).append(step)
        return func(*args, **given)

    def again(self, like: Tensor, generator: Generator) -> Tensor | None:
        """New tensor of the shape of `like`, in float32, after the same steps with draws of `generator`.

        None where there was none: nobody gave the tensor a value.
        """
        steps = self._steps.get(like.untyped_storage().data_ptr(), ())
        if not steps:
            return None
        made = torch.zeros(like.shape, dtype=torch.float32)
        start = like.storage_offset()
        for func, seen, args, given in steps:
            part = made.as_strided(seen.shape, seen.stride(), seen.storage_offset() - start)
            _step(func, part, args, given, generator)
        return made


@torch.no_grad()
def draw(module: nn.Module, names: Iterable[str], steps: Steps, seed: int) -> None:
    """Give the parameters and buffers `names` of `module`, which lie on the CPU, their values from `seed`.

    Tensors that share their numbers are one, drawn under the first of their names.

    Raises:
        ModelError: the model's class leaves one of them without a value.
    """
    known: dict[str, Tensor] = dict(module.named_buffers(remove_duplicate=False))
    known.update(module.named_parameters(remove_duplicate=False))
    done: set[int] = set()
    for name in sorted(names):
        tensor = known[name]
        if tensor.data_ptr() in done:
            continue
        done.add(tensor.data_ptr())
        made = steps.again(tensor, _generator(seed, name))
        if made is None:
            raise ModelError(
                f"{name} is missing, and {type(module).__name__} does not say how it begins: it cannot be"
                " initialised; give a checkpoint that has it"
            )
        tensor.copy_(made)


def _generator(seed: int, name: str) -> Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def _step(
    func: Any, part: Tensor, args: tuple[object, ...], given: Mapping[str, object], source: Generator
) -> None:
    """Do one step on `part`; what is drawn comes from `source`."""
    options = dict(given)
    if func is torch.ops.aten.normal_.default:
        mean, std = _two(args, options, "mean", "std")
        _fill(part, lambda numbers: numbers.normal_(mean, std, generator=source))
    elif func is torch.ops.aten.uniform_.default:
        low, high = _two(args, options, "from", "to")
        _fill(part, lambda numbers: numbers.uniform_(low, high, generator=source))
    else:
        if torch.Tag.nondeterministic_seeded in func.tags:
            options["generator"] = source
        func(part, *args, **options)


def _two(args: Sequence[object], given: Mapping[str, Any], first: str, second: str) -> tuple[float, float]:
    """The two numbers of a draw, which are 0 and 1 where they are not said."""
    low, high = (*args, *(0.0, 1.0)[len(args) :])[:2]
    return float(given.get(first, low)), float(given.get(second, high))


def _fill(part: Tensor, drawn: Any) -> None:
    """Fill `part` with numbers drawn in float64: in float32 a draw hangs on the processor's vector
    instructions in its last digit, which rounding hides here."""
    numbers = torch.empty(part.numel(), dtype=torch.float32)
    for chunk in torch.split(numbers, _CHUNK):
        chunk.copy_(drawn(torch.empty(chunk.shape, dtype=torch.float64)))
    part.copy_(numbers.view(part.shape))
