"""Probe of a model's resumed forward: whether it can be resumed is found by trying, when it is loaded.

Runs that begin in the middle must give what whole runs give: unchanged, from several blocks and tokens, and
changed inside a block. A model that does not reproduce this is not resumed; a module whose tensors in a
resumed run are not the last tokens of those in a whole one is left to the hooked tier.

Shapes: B probes, T tokens, q of them resumed, W width, V vocabulary.
"""

__all__ = ["find_resume"]

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workers.engine.replay.base_cache import BaseCache, BaseExtent, run_prefix
from workers.intervene.edits import Edits
from workers.libraries.torch import is_of_machine
from workers.libraries.transformers import silent, text_config
from workers.model.capability import Ability
from workers.model.hooks import Tap, Visit, Visits
from workers.model.resume import Resume, find_blocks, num_rows_at, own_block_of
from workers.tolerances import AGREEMENT
from workers.zoo.base import ZooModel

if TYPE_CHECKING:
    from workers.model.loading import LoadedModel

_PROBES, _TOKENS = 3, 8
_LONGEST_WINDOW = 60
"""Longest sliding window that a probe is made long enough to leave."""

Tensors = dict[Tap, Tensor]


_DEPENDS = "rotary embeddings depend on the prompt's length"


class _UnfitError(Exception):
    """Reason that a model is not resumed."""


@dataclass(slots=True)
class _Findings:
    """Abilities found so far, in the order in which they were tried."""

    abilities: list[Ability] = field(default_factory=list)

    def has(self, name: str) -> None:
        self.abilities.append(Ability(name=name, has=True))

    def lacks(self, name: str, reason: str | Exception) -> None:
        """Note an ability that is not there.

        Raises:
            Exception: the reason itself, where it says something of the machine and not of the model.
        """
        if isinstance(reason, Exception) and is_of_machine(reason):
            raise reason
        error = type(reason).__name__ if isinstance(reason, Exception) else ""
        if isinstance(reason, _UnfitError):
            error = ""
        self.abilities.append(Ability(name=name, has=False, reason=_in_words(reason), error=error))


def find_resume(model: "LoadedModel") -> tuple[Resume | None, tuple[Ability, ...]]:
    """Find the model's resumed forward, or None, and the abilities of the resumed tier that were tried.

    Raises:
        Exception: the device is broken, or there is no memory; neither says anything of the model.
    """
    findings = _Findings()
    try:
        with silent():
            resume = _found(model, findings)
    except Exception as error:
        findings.lacks("resumed", error)
        return None, tuple(findings.abilities)
    return resume, tuple(findings.abilities)


def _in_words(reason: str | Exception) -> str:
    if isinstance(reason, str | _UnfitError):
        return str(reason)
    said = str(reason).strip().splitlines() or [""]
    return f"a resumed run raised {type(reason).__name__}: {said[0][:200]}"


def _found(model: "LoadedModel", findings: _Findings) -> Resume:
    module, facts = model.module, model.facts
    if isinstance(module, ZooModel) or facts.vocab_size is None:
        raise _UnfitError("a built-in model has no key/value cache")
    if model.keywords.cache is None:
        raise _UnfitError(f"{type(module).__name__} takes no key/value cache")
    if not model.is_causal:
        raise _UnfitError("a token changes what comes before it")
    blocks = find_blocks(module, model.places.family, facts.num_layers)
    if blocks is None:
        raise _UnfitError(f"no list of {facts.num_layers} blocks, or several")
    weights = sum(p.numel() for p in module.get_submodule(blocks).parameters()) / facts.num_layers
    resume = Resume(
        blocks=blocks,
        num_blocks=facts.num_layers,
        grows=True,
        num_returned=0,
        block_of=own_block_of(module, blocks),
        token_local=frozenset(),
        block_parameters=weights,
        shares_prefixes=False,
        is_chain=False,
        cache_bytes=(),
        embedding_width=model.embedding_width or facts.width,
        head_cost=module.get_submodule(model.head.module).weight.numel() / max(1.0, weights),  # type: ignore[operator]
    )
    probe = _Probe(model, resume)
    obstacle: Exception | None = None
    try:
        resume = probe.checked(grows=True)
    except Exception as error:
        if is_of_machine(error):
            raise
        # Where masks or positions are made for each row, all rows of a forward begin together.
        obstacle = error
        resume = probe.checked(grows=False)
    findings.has("resumed")
    if obstacle is None:
        findings.has("mixed_starts")
    else:
        findings.lacks("mixed_starts", obstacle)
    return probe.with_shortcuts(resume, findings)


class _Probe:
    """Whole runs of a few prompts, and the runs that must give the same.

    Raises:
        _UnfitError: the model cannot keep what is needed.
    """

    def __init__(self, model: "LoadedModel", resume: Resume) -> None:
        self._model = model
        config: Any = model.module.config
        num_tokens = _num_tokens(text_config(config))
        vocab_size = model.facts.vocab_size or 0
        device = model.device
        count = torch.arange(_PROBES * num_tokens, device=device).reshape(_PROBES, -1)
        self._prompts = (count * 7 + 3) % vocab_size  # [B, T]
        self._num_tokens = num_tokens
        self._bound = AGREEMENT[str(next(model.module.parameters()).dtype).removeprefix("torch.")]
        self._firsts = sorted({0, num_tokens // 2, num_tokens - 1})
        self._reads = torch.tensor([self._firsts], device=device)  # [1, R]
        self._whole: Tensors = {}
        self._clean, seen = self._forward(self._prompts, self._keepers(resume, self._whole))
        for tap in seen.faults():  # among them the modules that run twice
            self._whole.pop(tap, None)
        self._base_cache, self._resume = self._captured(resume)

    def checked(self, *, grows: bool) -> Resume:
        """Resumed forward of the model, if rows may or may not begin at different blocks.

        Raises:
            _UnfitError: a resumed run gives something else than the whole one.
        """
        resume = replace(self._resume, grows=grows)
        last, middle = resume.num_blocks - 1, resume.num_blocks // 2
        for first in self._firsts:
            for starts in ((0, middle, last), (middle, last, last)):
                for some in [starts] if grows else [(start,) * _PROBES for start in sorted(set(starts))]:
                    self._check_unchanged(resume, some, first)
        resume = replace(resume, block_of=self._own_blocks(resume))
        self._check_changed(resume, (0, middle), self._num_tokens // 2)
        return resume

    def with_shortcuts(self, resume: Resume, findings: _Findings) -> Resume:
        """The resumed forward with what makes it cheaper still, where that was seen to change nothing."""
        token_local: frozenset[Tap] = frozenset()
        try:
            token_local = self._token_local(resume)
            findings.has("single_tokens")
        except Exception as error:
            findings.lacks("single_tokens", error)
        shares = False
        try:
            self._check_prefix(resume)
            findings.has("shared_prefixes")
            shares = True
        except Exception as error:
            findings.lacks("shared_prefixes", error)
        return replace(resume, token_local=token_local, shares_prefixes=shares)

    def _token_local(self, resume: Resume) -> frozenset[Tap]:
        from workers.engine.replay.token_local import find_token_local

        if not resume.grows:
            raise _UnfitError("all rows of a forward begin at one block")
        if self._model.facts.depends_on_length:
            raise _UnfitError(_DEPENDS)
        found = find_token_local(self._model, resume, self._base_cache, self._slots, self._whole, self._bound)
        if not found:
            raise _UnfitError("every change inside a block reaches the next token")
        return found

    def _check_prefix(self, resume: Resume) -> None:
        """See whether runs that go on from one run of what they share give what whole runs give."""
        if self._model.facts.depends_on_length:
            raise _UnfitError(_DEPENDS)
        first = self._num_tokens // 2
        alike = torch.cat([self._prompts[:1, :first].expand(_PROBES, -1), self._prompts[:, first:]], 1)
        whole, _ = self._forward(alike, ())
        model = replace(self._model, resume=resume)
        prefix = run_prefix(model, tuple(alike[0, :first].tolist()), ())
        cache = prefix.cache(_PROBES, model.device)
        reads = self._reads[:, self._firsts.index(first) :].expand(_PROBES, -1) - first
        logits, _ = model.forward(alike[:, first:], reads, (), cache=cache, first=first)
        self._compare(logits, self._from(first, whole), "a shared prefix")

    def _captured(self, resume: Resume) -> tuple[BaseCache, Resume]:
        """KV cache of the probes, and the model's shapes as they were seen."""
        from workers.engine.replay.kv_cache import RunCache

        returned: list[int] = []

        def note(_: nn.Module, __: object, output: Tensor | tuple[object, ...]) -> None:
            returned.append(0 if isinstance(output, Tensor) else len(output))

        extent = BaseExtent(num_tokens=self._num_tokens, block=0, first=0, last=self._num_tokens - 1)
        base_cache = BaseCache(resume, extent, _PROBES)
        prompts = [tuple(row) for row in self._prompts.tolist()]
        base_cache.reserve(prompts)
        visits, keep = base_cache.recording(prompts, self._model.device)
        cache = RunCache(resume.num_blocks, keep=keep)
        handle = self._model.module.get_submodule(f"{resume.blocks}.0").register_forward_hook(note)
        try:
            logits, _ = self._forward(self._prompts, visits, cache)
        finally:
            handle.remove()
        base_cache.recorded(prompts)
        self._slots = base_cache.slots(prompts, self._model.device)
        if any(kept is None for kept in (*base_cache.keys, *base_cache.values, *base_cache.inputs)):
            raise _UnfitError("some blocks keep no keys and values of their own")
        if any(
            kept.shape[2] != extent.last
            for kept in (*base_cache.keys, *base_cache.values)
            if kept is not None
        ):
            raise _UnfitError("some blocks do not keep keys and values of every token")
        self._compare(logits, self._clean, "a run that keeps its keys and values")
        sizes = tuple(
            (k.nbytes + v.nbytes) // (_PROBES * extent.last)
            for k, v in zip(base_cache.keys, base_cache.values, strict=True)
            if k is not None and v is not None
        )
        return base_cache, replace(
            resume, num_returned=returned[0], is_chain=self._is_chain(resume), cache_bytes=sizes
        )

    def _is_chain(self, resume: Resume) -> bool:
        taps = [resume.input_of(block) for block in range(resume.num_blocks)]
        return all(
            torch.equal(self._whole[Tap(one.module, "output")], self._whole[two])
            for one, two in pairwise(taps)
        )

    def _check_unchanged(self, resume: Resume, starts: Sequence[int], first: int) -> None:
        what = f"a run from block {starts[0]} and token {first}"
        # In another order, so that no row hangs on those beside it.
        rows = torch.arange(_PROBES, device=self._model.device).flip(0)
        self._compare(self._run(resume, starts, first, (), rows), self._from(first, self._clean[rows]), what)

    def _own_blocks(self, resume: Resume) -> dict[str, int]:
        """The modules whose tensors, in a resumed run, are the last tokens of the whole run's."""
        first, seen = self._num_tokens // 2, Tensors()
        self._run(resume, (0,) * _PROBES, first, self._keepers(resume, seen))
        wrong = {
            tap.module
            for tap, tensor in seen.items()
            if not _is_tail(tensor, self._whole.get(tap), first, self._bound)
        }
        return {path: block for path, block in resume.block_of.items() if path not in wrong}

    def _places(self, resume: Resume, blocks: Sequence[int]) -> list[Tap]:
        """Outputs of the modules of `blocks`, and inputs of some blocks; in the order of the blocks."""
        paths = [f"{resume.blocks}.{block}" for block in sorted(set(blocks))]
        inside = [
            Tap(f"{path}.{name}", "output")
            for path in paths
            for name, _ in self._model.module.get_submodule(path).named_children()
        ]
        inputs = [resume.input_of(block) for block in sorted({*blocks, resume.num_blocks - 1})]
        known = [tap for tap in (*inside, *inputs) if tap in self._whole and tap.module in resume.block_of]
        return sorted(known, key=lambda tap: resume.block_of[tap.module])

    def _check_changed(self, resume: Resume, blocks: Sequence[int], token: int) -> None:
        """Check runs with noise at one place a row, at one token."""
        from workers.engine.replay.token_local import added, holds_nothing, noise_like

        places = self._places(resume, blocks)
        generator = torch.Generator().manual_seed(0)
        changes = [added(tap, token, noise_like(self._whole[tap], generator)) for tap in places]
        rows = torch.arange(len(places), device=self._model.device) % _PROBES
        starts = [resume.block_of[tap.module] for tap in places]
        hooked = Edits([[change] for change in changes], self._num_tokens, holds_nothing)
        whole, seen = self._forward(self._prompts[rows], hooked.visits())
        if hooked.failures(seen):
            raise _UnfitError("nothing inside a block can be changed by token")
        for group in [range(len(starts))] if resume.grows else _alike(starts):
            some = [starts[row] for row in group]
            edits = Edits(
                [[changes[row]] for row in group],
                self._num_tokens,
                holds_nothing,
                first=token,
                num_rows=lambda tap, some=some: num_rows_at(resume, some, tap),  # type: ignore[misc]
            )
            logits = self._run(resume, some, token, edits.visits(), rows[list(group)])
            self._compare(logits, self._from(token, whole[list(group)]), "a run changed inside a block")

    def _run(
        self,
        resume: Resume,
        starts: Sequence[int],
        first: int,
        visits: Sequence[tuple[Tap, Visit]] = (),
        rows: Tensor | None = None,
    ) -> Tensor:
        """The logits [n, R, V] at the tokens looked at, from token `first` on."""
        from workers.engine.replay.forward import Suffix, run

        reads = self._reads[:, self._firsts.index(first) :].expand(len(starts), -1)
        slots = self._slots if rows is None else self._slots[rows]
        suffix = Suffix(bases=self._base_cache, slots=slots, starts=starts, first=first, reads=reads)
        logits, seen = run(self._model, resume, suffix, visits)
        if faults := [fault for tap, fault in seen.faults().items() if tap == resume.input_of(starts[0])]:
            raise faults[0]
        return logits

    def _forward(
        self, prompts: Tensor, visits: Sequence[tuple[Tap, Visit]], cache: object = None
    ) -> tuple[Tensor, Visits]:
        """A whole run: the logits [n, R, V] at the tokens looked at."""
        return self._model.forward(prompts, self._reads.expand(len(prompts), -1), visits, cache=cache)

    def _from(self, first: int, logits: Tensor) -> Tensor:
        return logits[:, self._firsts.index(first) :]

    def _keepers(self, resume: Resume, kept: Tensors) -> list[tuple[Tap, Visit]]:
        """Keep what the modules of blocks are given and return."""

        def keeper(tap: Tap) -> Visit:
            def keep(tensor: Tensor, _: int) -> None:
                kept[tap] = tensor.clone()

            return keep

        taps = [Tap(path, side) for path in resume.block_of for side in ("input", "output")]
        return [(tap, keeper(tap)) for tap in taps]

    def _compare(self, found: Tensor, expected: Tensor, what: str) -> None:
        scale = expected.abs().max().clamp_min(1e-30)
        off = float(((found - expected).abs().max() / scale).nan_to_num(torch.inf))
        if not off <= self._bound:
            raise _UnfitError(f"{what} gives other logits, by {off:.1g} of the largest")


def _num_tokens(config: Any) -> int:
    """Long enough to leave a sliding window, where it is short; and not more than the model takes."""
    window = getattr(config, "sliding_window", None)
    wanted = window + 4 if isinstance(window, int) and 4 < window <= _LONGEST_WINDOW else _TOKENS
    most = getattr(config, "max_position_embeddings", None)
    return min(wanted, most) if isinstance(most, int) and most > 0 else wanted


def _is_tail(tensor: Tensor, whole: Tensor | None, first: int, bound: float) -> bool:
    """Whether `tensor` [B, q, …] is the end of `whole` [B, T, …]."""
    if whole is None or tensor.dim() != 3 or whole.dim() != 3 or tensor.shape != whole[:, first:].shape:
        return False
    return bool((tensor - whole[:, first:]).abs().max() <= bound * whole.abs().max().clamp_min(1e-30))


def _alike(starts: Sequence[int]) -> list[list[int]]:
    """The rows of each start."""
    return [[row for row, one in enumerate(starts) if one == start] for start in sorted(set(starts))]
