"""Models in memory: loaded from a local folder, built in, or wrapped. What they can do is found by probing
them (`workers.engine.replay.probe`), not here.

Shapes: B rows, T tokens, E width of an input vector, R read positions, W width, V vocabulary or classes.
"""

__all__ = ["LoadedModel", "LogitReader", "facts_of", "head_logits", "load", "load_module", "module_paths"]

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from workers.errors import ModelError
from workers.libraries.transformers import NO_KEYWORDS, Keywords, logits_of
from workers.model.capability import Capability
from workers.model.checkpoint import read_checkpoint
from workers.model.config_facts import facts_of_config
from workers.model.facts import ModelFacts
from workers.model.families import Family, family_of
from workers.model.hooks import Tap, Visit, Visits, visiting
from workers.model.layout import Dims, Heads, Target
from workers.model.places import Places
from workers.model.resume import Resume
from workers.model.site_identities import Identities
from workers.vocabulary import ModelSpec
from workers.zoo.base import ZooModel
from workers.zoo.build import build
from workers.zoo.configs import config_of, is_zoo, zoo_name


class LogitReader:
    """Reader of the logits at each row's `reads` in one forward.

    Args:
        head: the unembedding.
        tap: its input.
        reads: [B, R], tokens of those that run.
        ids: [K], whose logits are wanted; None where all are.
        visits: what else is done in the forward.
        is_plain: whether the head does nothing but multiply and add.
    """

    def __init__(
        self,
        head: nn.Module,
        tap: Tap,
        reads: Tensor,
        ids: Tensor | None,
        visits: Sequence[tuple[Tap, Visit]] = (),
        *,
        is_plain: bool,
    ) -> None:
        self._head = head
        self._rows = torch.arange(len(reads), device=reads.device)[:, None]
        self._reads = reads
        self._ids = ids
        # What the head returns cannot be changed, nor seen, where it is given nothing.
        is_seen = any(one.module == tap.module and one.side == "output" for one, _ in visits)
        self._is_short = ids is not None and is_plain and not is_seen
        self._given: Tensor | None = None
        self.visit: tuple[Tap, Visit] = (tap, self._gather)
        """Visit of the head's input, to come after all others."""

    def logits(self, made: Tensor) -> Tensor:
        """[B, R, V] or [B, R, K], from what the model's forward returned."""
        if self._given is not None:
            return head_logits(self._head, self._given, self._ids)
        return made if self._ids is None else made[..., self._ids]

    def _gather(self, hidden: Tensor, _: int) -> Tensor:
        read = hidden[self._rows, self._reads]  # [B, R, W]
        if not self._is_short:
            return read
        self._given = read
        return read[:, :0]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """Model that runs in evaluation mode, without gradients, and what probing it has shown."""

    module: nn.Module
    facts: ModelFacts
    spec: ModelSpec
    device: torch.device
    places: Places
    """Named sites, where a table knows them, and modules."""
    head: Tap
    """Input of the unembedding."""
    embedding_width: int | None = None
    """Width of the vectors that its forward takes in the place of token ids; None where that is not known."""
    output: str | None = None
    """Output that is read, by name; None for the first, or the only one."""
    keywords: Keywords = NO_KEYWORDS
    """Names of its forward's arguments, as probing showed."""
    is_causal: bool = False
    """Whether probing showed that a token changes nothing before it."""
    has_plain_head: bool = False
    """Whether probing showed that the head does nothing but multiply and add."""
    resume: Resume | None = None
    """Resumption of its forward in the middle, where probing showed that this reproduces it."""
    identities: Identities = field(default_factory=Identities)
    """Report on whether named sites hold what their names promise, and which are refused."""
    capability: Capability = field(default_factory=Capability)
    """Report on what it can do and what it cannot, each with its reason."""

    @classmethod
    def wrap(cls, module: nn.Module, facts: ModelFacts, spec: ModelSpec | None = None) -> Self:
        """Model of a module in memory, which is put into evaluation mode and left where it is. Nothing runs.

        Raises:
            ModelError: it has no unembedding, or not the blocks that its family names.
        """
        module.eval().requires_grad_(False)
        family = _family(module, facts)
        return cls(
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
            head=Tap(_head_path(module), "input"),
            embedding_width=_embedding_width(module),
        )

    @property
    def tier_reason(self) -> str:
        """Reason why jobs run as they do: resumed, or hooked."""
        return self.capability.tier

    def forward(
        self,
        prompts: Tensor,
        reads: Tensor,
        visits: Sequence[tuple[Tap, Visit]] = (),
        *,
        ids: Tensor | None = None,
        gradients: bool = False,
        cache: object = None,
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
        reading = self.reader(reads, ids, visits)
        read_here = [] if is_whole else [reading.visit]
        with (
            torch.inference_mode(not gradients),
            visiting(self.module, [*visits, *read_here], num_steps=prompts.shape[1]) as seen,
        ):
            cached = {} if cache is None else self.keywords.with_cache(cache)
            if first and self.resume is not None:
                at = torch.arange(first, first + prompts.shape[1], device=self.device)
                cached |= self.keywords.at(at.expand(len(prompts), -1))
            found = self.module(**self.inputs(prompts) | cached)
            made: Tensor = logits_of(found) if self.output is None else found.heads[self.output]
            logits = reading.logits(made)
        return logits.expand(-1, reads.shape[1], -1) if is_whole else logits, seen

    def inputs(self, prompts: Tensor) -> dict[str, object]:
        """Arguments of the module's forward for token ids [B, T] or vectors [B, T, E]."""
        if not prompts.is_floating_point():
            return {"input_ids": prompts, **self.keywords.without_cache()}
        vectors = prompts.to(next(self.module.parameters()).dtype)
        return {self.keywords.vectors or "inputs_embeds": vectors, **self.keywords.without_cache()}

    def reader(self, reads: Tensor, ids: Tensor | None, visits: Sequence[tuple[Tap, Visit]]) -> LogitReader:
        """Reader of the logits of `ids` at `reads` [B, R] in a forward with these visits."""
        head = self.module.get_submodule(self.head.module)
        return LogitReader(head, self.head, reads, ids, visits, is_plain=self.has_plain_head)

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
        spec: dtype, attention, device, and whether weights may be missing; code from the folder runs only
            with ``trust_remote_code``.
        facts: what is known of the model.
        device: overrides the spec's; ``auto`` is a CUDA device where there is one.

    Raises:
        ModelError: the folder cannot be loaded, or its weights are not those of its config's model.
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
    """Facts of a module in memory: a model of the transformers library, or a built-in one.

    Its ``ref`` is the name of its class and its ``revision`` is empty: what a study needs to name it is not
    known.

    Raises:
        ModelError: it has no config, or one without the numbers that are needed.
    """
    name = type(module).__name__
    dtype = str(next(module.parameters()).dtype).removeprefix("torch.")
    if isinstance(module, ZooModel):
        return module.config.facts(dtype=dtype)
    config: object = getattr(module, "config", None)
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
    return read_checkpoint(facts.folder, spec)


def _embedding_width(module: nn.Module) -> int | None:
    """Width of the vectors that take the place of token ids; None where the model does not show its table."""
    find = getattr(module, "get_input_embeddings", None)
    try:
        weight = getattr(find(), "weight", None) if callable(find) else None
    except (AttributeError, NotImplementedError):
        return None
    return weight.shape[-1] if isinstance(weight, Tensor) else None


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


def head_logits(head: nn.Module, given: Tensor, ids: Tensor | None) -> Tensor:
    """Logits of `ids` that a plain head makes of its input [B, R, W]."""
    weight, bias = cast(Tensor, head.weight), cast(Tensor | None, getattr(head, "bias", None))
    return nn.functional.linear(given, weight[ids], None if bias is None else bias[ids])


def module_paths(spec: ModelSpec, folder: Path | None) -> list[str]:
    """Every path by which a module of the model is reached, the model itself (the empty path) first.

    Args:
        spec: which model.
        folder: where its config lies; None for a built-in model.

    Raises:
        Exception: whatever the library says of a config that it cannot make a model of.
    """
    module = build(config_of(zoo_name(spec.ref), spec.options)) if is_zoo(spec.ref) else _bare(spec, folder)
    return [path for path, _ in module.named_modules(remove_duplicate=False)]


def _bare(spec: ModelSpec, folder: Path | None) -> nn.Module:
    """A model of the transformers library, without memory for its weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    assert folder is not None
    library: Any = AutoModelForCausalLM
    trust = spec.trust_remote_code
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)
    with torch.device("meta"):
        made: nn.Module = library.from_config(config, trust_remote_code=trust)
    return made


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    found = module_paths(ModelSpec(**asked["spec"]), asked["folder"] and Path(asked["folder"]))
    json.dump(found, sys.stdout)
