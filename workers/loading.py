"""A model in memory, with what is known of it: loaded from a local folder, or wrapped.

Shapes: B rows, T tokens, R read positions, W width, V vocabulary.
"""

__all__ = ["LoadedModel", "load"]

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from workers.errors import ModelError
from workers.facts import ModelFacts
from workers.families import Family, family_of
from workers.hooks import Tap, Visit, Visits, visiting
from workers.layout import WHOLE, Dims, Heads, Target, layout_of
from workers.sites import check_site, is_module_path, num_heads, split_path
from workers.vocabulary import ModelSpec

_PROBE_TOKENS = 8
_CAUSAL_TOLERANCE = 1e-6
"""Of the largest absolute value; equal shapes give equal floats, so a causal model shows no change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that runs in evaluation mode, without gradients."""

    module: nn.Module
    facts: ModelFacts
    spec: ModelSpec
    device: torch.device
    family: Family | None
    """None where no table names the model's sites; module paths work all the same."""
    head: Tap
    """What the unembedding is given."""
    is_causal: bool
    """Whether a run at load showed that a token changes nothing before it."""

    @classmethod
    def wrap(cls, module: nn.Module, facts: ModelFacts, spec: ModelSpec | None = None) -> Self:
        """A model that is in memory already; it is put into evaluation mode and left where it is.

        Raises:
            ModelError: it has no unembedding, or not the blocks that its family names.
        """
        module.eval().requires_grad_(False)
        family = _family(module, facts)
        head = Tap(_head_path(module), "input")
        return cls(
            module=module,
            facts=facts,
            spec=spec or ModelSpec(ref=facts.ref),
            device=next(module.parameters()).device,
            family=family,
            head=head,
            is_causal=_is_causal(module, family, facts),
        )

    def forward(
        self, tokens: Tensor, reads: Tensor, visits: Sequence[tuple[Tap, Visit]] = ()
    ) -> tuple[Tensor, Visits]:
        """Run `tokens` [B, T] and take the logits at each row's `reads` [B, R] only.

        Returns:
            The logits [B, R, V], as the model's own forward makes them, and what became of the taps.

        Raises:
            ModelError: a tap names a module that is not there.
        """
        rows = torch.arange(len(tokens), device=self.device)[:, None]

        def gather(hidden: Tensor) -> Tensor:
            return hidden[rows, reads]

        with torch.inference_mode(), visiting(self.module, [*visits, (self.head, gather)]) as seen:
            logits: Tensor = self.module(input_ids=tokens, use_cache=False).logits
        return logits, seen

    def target(self, site: str, layer: int | None, heads: Heads | None, dims: Dims | None) -> Target:
        """The columns of the tensor that a place means.

        Raises:
            ModelError: the model has no such site, layer, head or module.
        """
        check_site(site)
        if is_module_path(site):
            return self._module_target(site, layer, heads, dims)
        family = self.family or family_of(self.facts.model_type)
        if site not in family.sites:
            raise ModelError(
                f"{self.facts.ref} ({family.name}) has no site {site!r}; it has {', '.join(family.sites)}"
            )
        if layer is None or not 0 <= layer < self.facts.num_layers:
            raise ModelError(
                f"{site} at layer {layer}: {self.facts.ref} has layers 0 to {self.facts.num_layers - 1}"
            )
        _check_heads(site, heads, num_heads(site, self.facts))
        spot = family.sites[site]
        path = ".".join(filter(None, (family.blocks, str(layer), spot.module)))
        return Target(Tap(path, spot.side), layout_of(site, spot.part, family, self.facts), heads, dims)

    def _module_target(
        self, site: str, layer: int | None, heads: tuple[int, ...] | None, dims: Any
    ) -> Target:
        path, side = split_path(site)
        if layer is not None or heads is not None:
            raise ModelError(f"site {site!r} is a module path: it takes neither a layer nor heads")
        try:
            self.module.get_submodule(path)
        except AttributeError:
            raise ModelError(f"{self.facts.ref} has no module {path!r}, which site {site!r} names") from None
        return Target(Tap(path, side), WHOLE, None, dims)


def load(spec: ModelSpec, facts: ModelFacts, *, device: str | None = None) -> LoadedModel:
    """Load the weights in ``facts.folder`` (safetensors only, nothing is fetched).

    Args:
        spec: dtype, attention and device; code from the folder runs only with ``trust_remote_code``.
        facts: what is known of the model.
        device: overrides the spec's; ``auto`` is a CUDA device where there is one.

    Raises:
        ModelError: the folder cannot be loaded.
    """
    return LoadedModel.wrap(_read(spec, facts).to(_device(device or spec.device)), facts, spec)


def _device(wanted: str) -> torch.device:
    """The device of this name.

    Raises:
        ModelError: there is none on this machine.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {wanted!r} cannot be used here ({reason}); leave device out") from error


def _read(spec: ModelSpec, facts: ModelFacts) -> Any:
    from transformers import AutoModelForCausalLM

    with _quiet():
        try:
            return AutoModelForCausalLM.from_pretrained(
                facts.folder,
                dtype=getattr(torch, spec.dtype),
                attn_implementation=spec.attention,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=spec.trust_remote_code,
            )
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            raise ModelError(f"{facts.ref} cannot be loaded from {facts.folder}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's warnings and progress bars; the caller's settings come back."""
    from transformers.utils import logging

    library: Any = logging
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()


def _family(module: nn.Module, facts: ModelFacts) -> Family | None:
    try:
        family = family_of(facts.model_type)
    except ModelError:
        return None
    try:
        blocks = module.get_submodule(family.blocks)
    except AttributeError:
        raise ModelError(
            f"{facts.ref} is a {facts.model_type}, but has no blocks at {family.blocks!r}"
        ) from None
    found = len(list(blocks.children()))
    if found != facts.num_layers:
        raise ModelError(f"{facts.ref} has {found} blocks, but its config says {facts.num_layers}")
    return family


def _head_path(module: nn.Module) -> str:
    find = getattr(module, "get_output_embeddings", None)
    head = find() if callable(find) else None
    paths: list[str] = [path for path, found in module.named_modules() if found is head]
    if not paths:
        raise ModelError(f"{type(module).__name__} has no unembedding: only language models can be read")
    return paths[0]


def _check_heads(site: str, heads: Heads | None, available: int | None) -> None:
    if heads is None:
        return
    if available is None:
        raise ModelError(f"site {site!r} has no heads; leave out 'head'")
    if not heads or not all(0 <= head < available for head in heads):
        raise ModelError(f"heads {list(heads)} of {site}: there are heads 0 to {available - 1}")


@torch.inference_mode()
def _is_causal(module: nn.Module, family: Family | None, facts: ModelFacts) -> bool:
    """Whether two runs that differ in the last token agree before it: in every block and in the logits."""
    device = next(module.parameters()).device
    tokens = torch.arange(1, _PROBE_TOKENS + 1, device=device) % facts.vocab_size
    changed = tokens.clone()
    changed[-1] = (changed[-1] + 1) % facts.vocab_size
    return all(
        bool((one - other).abs().max() <= _CAUSAL_TOLERANCE * one.abs().max())
        for one, other in zip(*(_before_last(module, family, run) for run in (tokens, changed)), strict=True)
    )


def _before_last(module: nn.Module, family: Family | None, tokens: Tensor) -> list[Tensor]:
    """Each block's output and the logits of one run [T], without the last token."""
    found: list[Tensor] = []

    def keep(hidden: Tensor) -> None:
        found.append(hidden[:, :-1].clone())

    blocks = [] if family is None else module.get_submodule(family.blocks).named_children()
    taps = [Tap(f"{family.blocks}.{name}", "output") for name, _ in blocks] if family else []
    with visiting(module, [(tap, keep) for tap in taps]):
        found.append(module(input_ids=tokens[None], use_cache=False).logits[:, :-1])
    return found
