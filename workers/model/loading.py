"""A model in memory, with what is known of it: loaded from a local folder, built in, or wrapped.

Shapes: B rows, T tokens, E width of an input vector, R read positions, W width, V vocabulary or classes.
"""

__all__ = ["LoadedModel", "facts_of", "load", "load_module"]

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from workers.errors import ModelError
from workers.facts import ModelFacts
from workers.families import Family, family_of
from workers.identities import Identities
from workers.model.head import Reading, is_plain_head
from workers.model.hooks import Tap, Visit, Visits, visiting
from workers.model.identities import with_identities
from workers.model.layout import Dims, Heads, Target
from workers.model.places import Places
from workers.model.shapes import facts_of_config
from workers.replay.resume import Resume
from workers.replay.verify import find_resume
from workers.vocabulary import ModelSpec
from workers.zoo.base import ZooModel
from workers.zoo.build import build
from workers.zoo.configs import config_of, is_zoo, zoo_name

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
    places: Places
    """Its named sites, where a table knows them, and its modules."""
    head: Tap
    """What the unembedding is given."""
    is_causal: bool
    """Whether a run at load showed that a token changes nothing before it."""
    identities: Identities = field(default_factory=Identities)
    """Whether its named sites hold what their names promise, and which are refused."""
    has_plain_head: bool = False
    """Whether a run at load showed that the head does nothing but multiply and add."""
    resume: Resume | None = None
    """How its forward is resumed in the middle, where runs at load showed that this reproduces it."""
    tier_reason: str = ""
    """Why jobs run as they do: resumed, or hooked."""
    output: str | None = None
    """The output that is read, by name; None for the first, or the only one."""

    @classmethod
    def wrap(cls, module: nn.Module, facts: ModelFacts, spec: ModelSpec | None = None) -> Self:
        """A model that is in memory already; it is put into evaluation mode and left where it is.

        Raises:
            ModelError: it has no unembedding, or not the blocks that its family names.
        """
        module.eval().requires_grad_(False)
        family = _family(module, facts)
        head = Tap(_head_path(module), "input")
        model = cls(
            module=module,
            facts=facts,
            spec=spec or ModelSpec(ref=facts.ref),
            device=next(module.parameters()).device,
            places=Places(
                module=module,
                name=facts.ref,
                facts=facts,
                family=family,
                blocks="" if family is None else family.blocks,
            ),
            head=head,
            is_causal=_is_causal(module, family, facts),
            has_plain_head=_has_plain_head(module, head, facts),
        )
        resume, reason = find_resume(model)
        return with_identities(replace(model, resume=resume, tier_reason=reason))

    def forward(
        self,
        prompts: Tensor,
        reads: Tensor,
        visits: Sequence[tuple[Tap, Visit]] = (),
        *,
        ids: Tensor | None = None,
        gradients: bool = False,
        cache: Any = None,
        first: int = 0,
    ) -> tuple[Tensor, Visits]:
        """Run `prompts`, token ids [B, T] or vectors [B, T, E], and take the logits at each row's `reads`.

        Args:
            prompts: what is run; vectors take the place of token embeddings.
            reads: [B, R]; a model that is read as a whole has the same logits wherever it is read.
            visits: where the run is seen and changed.
            ids: [K], whose logits are wanted; None where all are.
            gradients: whether the caller's gradient mode holds, so that they reach what visits put there.
            cache: keeps the keys and values of the run; None where nobody wants them.
            first: the token that `prompts` begin at, where the cache holds what is before; `reads` count from
                there.

        Returns:
            The logits [B, R, V] or [B, R, K], as the model makes them, and what became of the taps.

        Raises:
            ModelError: a tap names a module that is not there.
        """
        is_whole = self.facts.reads == "run"
        reading = Reading(self, reads, ids, visits)
        read_here = [] if is_whole else [reading.visit]
        with (
            torch.inference_mode(not gradients),
            visiting(self.module, [*visits, *read_here], num_steps=prompts.shape[1]) as seen,
        ):
            cached: dict[str, Any] = {} if cache is None else {"past_key_values": cache, "use_cache": True}
            if first and self.resume is not None and self.resume.takes_positions:
                at = torch.arange(first, first + prompts.shape[1], device=self.device)
                cached["position_ids"] = at.expand(len(prompts), -1)
            found = self.module(**_inputs(self.module, prompts) | cached)
            made: Tensor = found.logits if self.output is None else found.heads[self.output]
            logits = reading.logits(made)
        return logits.expand(-1, reads.shape[1], -1) if is_whole else logits, seen

    def target(
        self,
        site: str,
        layer: int | None,
        heads: Heads | None,
        dims: Dims | None,
        *,
        changes: bool = True,
    ) -> Target:
        """The columns of the tensor that a place means, which is changed there, or only read.

        Raises:
            ModelError: the model has no such site, layer, head or module, or the site is refused.
        """
        return self.places.target(site, layer, heads, dims, changes=changes)


def load(spec: ModelSpec, facts: ModelFacts, *, device: str | None = None) -> LoadedModel:
    """Load the weights in ``facts.folder`` (safetensors only, nothing is fetched), or make a built-in model.

    Args:
        spec: dtype, attention and device; code from the folder runs only with ``trust_remote_code``.
        facts: what is known of the model.
        device: overrides the spec's; ``auto`` is a CUDA device where there is one.

    Raises:
        ModelError: the folder cannot be loaded.
    """
    return LoadedModel.wrap(load_module(spec, facts, device=device), facts, spec)


def load_module(spec: ModelSpec, facts: ModelFacts, *, device: str | None = None) -> nn.Module:
    """The model alone, with its weights, on its device; raises as `load` does."""
    module: nn.Module = _read(spec, facts)
    return module.to(_device(device or spec.device))


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


def facts_of(module: nn.Module) -> ModelFacts:
    """What is known of a module in memory: a model of the transformers library, or a built-in one.

    Its ``ref`` is the name of its class and its ``revision`` is empty: what a study needs to name it is not
    known.

    Raises:
        ModelError: it has no config, or one without the numbers that are needed.
    """
    name = type(module).__name__
    dtype = str(next(module.parameters()).dtype).removeprefix("torch.")
    if isinstance(module, ZooModel):
        return module.config.facts(dtype=dtype)
    config: Any = getattr(module, "config", None)
    if not hasattr(config, "to_dict"):
        raise ModelError(f"{name} has no config of the transformers library: name its sites as module paths")
    facts = facts_of_config(
        config.to_dict(), f"the config of {name}", ref=name, revision="", dtype=dtype, folder=None
    )
    return replace(facts, num_parameters=sum(parameter.numel() for parameter in module.parameters()))


def _read(spec: ModelSpec, facts: ModelFacts) -> Any:
    if is_zoo(spec.ref):
        return build(config_of(zoo_name(spec.ref), spec.options)).to(getattr(torch, spec.dtype))
    assert facts.folder is not None
    return _from_folder(facts.folder, spec)


def _from_folder(folder: Path, spec: ModelSpec) -> Any:
    from transformers import AutoModelForCausalLM

    with _quiet():
        try:
            return AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, spec.dtype),
                attn_implementation=spec.attention,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=spec.trust_remote_code,
            )
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            raise ModelError(f"{spec.ref} cannot be loaded from {folder}: {error}") from error


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


def _inputs(module: nn.Module, prompts: Tensor) -> dict[str, Any]:
    """The arguments of the module's forward for token ids [B, T] or vectors [B, T, E]."""
    inputs: dict[str, Any] = {"input_ids": prompts}
    if prompts.is_floating_point():
        inputs = {"inputs_embeds": prompts.to(next(module.parameters()).dtype)}
    return inputs if isinstance(module, ZooModel) else {**inputs, "use_cache": False}


def _head_path(module: nn.Module) -> str:
    find = getattr(module, "get_output_embeddings", None)
    head = find() if callable(find) else None
    paths: list[str] = [path for path, found in module.named_modules() if found is head]
    if not paths:
        raise ModelError(f"{type(module).__name__} has no unembedding: only language models can be read")
    return paths[0]


def _has_plain_head(module: nn.Module, head: Tap, facts: ModelFacts) -> bool:
    if facts.vocab_size is None or facts.reads == "run":
        return False
    tokens = torch.tensor([[0, 1]], device=next(module.parameters()).device) % facts.vocab_size

    def forward(tokens: Tensor) -> Tensor:
        logits: Tensor = module(**_inputs(module, tokens)).logits
        return logits

    return is_plain_head(module, head, tokens, forward)


@torch.inference_mode()
def _is_causal(module: nn.Module, family: Family | None, facts: ModelFacts) -> bool:
    """Whether two runs that differ in the last token agree before it: in every block and in the logits.

    Of a model that is read as a whole, or takes no token ids, it is not asked: no shortcut is for it.
    """
    if facts.vocab_size is None or facts.reads == "run":
        return False
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

    def keep(hidden: Tensor, _: int) -> None:
        found.append(hidden[:, :-1].clone())

    blocks = [] if family is None else module.get_submodule(family.blocks).named_children()
    taps = [Tap(f"{family.blocks}.{name}", "output") for name, _ in blocks] if family else []
    with visiting(module, [(tap, keep) for tap in taps]):
        found.append(module(**_inputs(module, tokens[None])).logits[:, :-1])
    return found
