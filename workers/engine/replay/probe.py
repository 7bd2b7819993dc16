"""Probing of a loaded model before its first job, by small forwards: the keywords of its forward, whether it
is causal, whether it resumes from a key/value cache, and whether its named sites hold what they promise.

Shapes: B rows, T tokens, W width, V vocabulary.
"""

__all__ = ["PLACES", "probed"]

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version

import torch
from torch import Tensor, nn

from workers.engine.replay.families import last_seen
from workers.engine.replay.kv_cache import RunCache
from workers.engine.replay.verify import find_resume
from workers.intervene.site_probe import find_identities
from workers.libraries import LibraryPlace, transformers_places
from workers.libraries.transformers import NO_KEYWORDS, Keywords, attention_of, find_keywords, logits_of
from workers.model.capability import Ability, Capability
from workers.model.hooks import Tap, Visit, Visits, visiting
from workers.model.loading import LoadedModel, facts_of, head_logits
from workers.zoo.base import ZooModel

_NUM_TOKENS = 8
_CAUSAL_TOLERANCE = 1e-6
"""Of the largest absolute value; equal shapes give equal floats, so a causal model shows no change."""
_LOUD = 100.0
"""Factor that makes logits so large that one that is bent or capped shows."""


def probed(model: LoadedModel) -> LoadedModel:
    """Model ready for an engine: with its capability, and the identities of its sites, as found by trying.

    Raises:
        Exception: the device is broken, or there is no memory; neither says anything of the model.
    """
    model = replace(model, keywords=_keywords(model))
    model = replace(model, is_causal=_is_causal(model), has_plain_head=_has_plain_head(model))
    resume, abilities = find_resume(model)
    model = replace(model, resume=resume, capability=_capability(model, abilities))

    def run(prompts: Tensor, visits: Sequence[tuple[Tap, Visit]]) -> Visits:
        reads = torch.zeros(len(prompts), 1, dtype=torch.long, device=model.device)
        return model.forward(prompts, reads, visits)[1]

    found = find_identities(model.places, run)
    return replace(model, identities=found, places=replace(model.places, identities=lambda: found))


def _keywords(model: LoadedModel) -> Keywords:
    if isinstance(model.module, ZooModel) or model.facts.vocab_size is None:
        return NO_KEYWORDS

    def make_cache(filled: Callable[[], None]) -> RunCache:
        return RunCache(model.facts.num_layers, keep=lambda *_: filled())

    return find_keywords(model.module, _tokens(model, 2), model.embedding_width, make_cache)


def _capability(model: LoadedModel, resumed: Sequence[Ability]) -> Capability:
    """The model's report, with the abilities that the check of the resumed tier found."""
    module, facts = model.module, model.facts
    is_built_in = isinstance(module, ZooModel)
    others = (
        _ability(
            "label_rows", model.has_plain_head, "logits are more than the head's input times its weight"
        ),
        _ability("unchanged", model.is_causal, "a token may change what comes before it"),
    )
    return Capability(
        abilities=(*resumed, *others),
        attention="built-in" if is_built_in else attention_of(module),
        dtype=facts.dtype,
        device=str(model.device),
        weights_bytes=sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers())),
        versions={
            "torch": version("torch"),
            **({} if is_built_in else {"transformers": version("transformers")}),
        },
        last_seen=last_seen(facts.model_type),
    )


def _ability(name: str, has: bool, reason: str) -> Ability:
    return Ability(name=name, has=has, reason="" if has else reason)


def _tokens(model: LoadedModel, count: int, first: int = 0) -> Tensor:
    """Token ids [1, `count`] to try a model with, in order from `first`."""
    assert model.facts.vocab_size is not None
    return torch.arange(first, first + count, device=model.device)[None] % model.facts.vocab_size


@torch.inference_mode()
def _is_causal(model: LoadedModel) -> bool:
    """Whether two runs that differ in the last token agree before it: in every block and in the logits.

    Of a model that is read as a whole, or takes no token ids, it is not asked: no shortcut is for it.
    """
    if model.facts.vocab_size is None or model.facts.reads == "run":
        return False
    tokens = _tokens(model, _NUM_TOKENS, first=1)
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % model.facts.vocab_size
    return all(
        bool((one - other).abs().max() <= _CAUSAL_TOLERANCE * one.abs().max())
        for one, other in zip(*(_before_last(model, run) for run in (tokens, changed)), strict=True)
    )


def _before_last(model: LoadedModel, tokens: Tensor) -> list[Tensor]:
    """Each block's output and the logits of one run [1, T], without the last token."""
    found: list[Tensor] = []

    def keep(hidden: Tensor, _: int) -> None:
        found.append(hidden[:, :-1].clone())

    blocks = model.places.blocks
    children = model.module.get_submodule(blocks).named_children() if blocks else ()
    with visiting(model.module, [(Tap(f"{blocks}.{name}", "output"), keep) for name, _ in children]):
        found.append(logits_of(model.module(**model.inputs(tokens)))[:, :-1])
    return found


def _has_plain_head(model: LoadedModel) -> bool:
    """Whether logits are the head's input times its weight, plus its bias; large ones as well as small."""
    if model.facts.vocab_size is None or model.facts.reads == "run":
        return False
    unembedding: nn.Module = model.module.get_submodule(model.head.module)
    weight, bias = getattr(unembedding, "weight", None), getattr(unembedding, "bias", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2 or not isinstance(bias, Tensor | None):
        return False
    given: list[Tensor] = []

    def amplify(hidden: Tensor, _: int) -> Tensor:
        loud = hidden.clone()
        loud[:, 1:] *= _LOUD
        given.append(loud)
        return loud

    with torch.inference_mode(), visiting(model.module, [(model.head, amplify)]):
        logits = logits_of(model.module(**model.inputs(_tokens(model, 2))))
    if len(given) != 1 or given[0].shape[-1] != weight.shape[1] or logits.shape[-1] > weight.shape[0]:
        return False
    bound = max(1e-5, 4 * torch.finfo(logits.dtype).eps)
    off = (head_logits(unembedding, given[0], torch.arange(logits.shape[-1])) - logits).abs().amax(-1)
    return bool((off <= bound * logits.abs().amax(-1)).all())


def _probe_resumed() -> str | None:
    module = transformers_places.tiny()
    capability = probed(LoadedModel.wrap(module, facts_of(module))).capability
    return "; ".join(f"{one.name}: {one.reason}" for one in capability.abilities if not one.has) or None


PLACES = (
    LibraryPlace(
        library="transformers",
        name="blocks that return what their own `forward` returns, and mask and rotary tables of one row",
        used_for="skipping the blocks before a job's first changed one; rows that begin at different blocks",
        seen_with="5.20.0 to 5.24.0",
        without="models run from one block, or hooked, as the check at load finds, and say so",
        marks=(),
        probe=_probe_resumed,
    ),
)
