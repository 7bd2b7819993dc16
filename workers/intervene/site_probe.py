"""Probing of whether a loaded model's named sites hold what their names promise: tried in one small forward.

A few blocks of each make are given several rows of one prompt. In each row one thing is changed there, and
the block after is given the first row alone, the clean one: all of it costs little more than one forward of a
few tokens.

Shapes: R rows, T tokens, E width of an input vector, W width of the residual stream.
"""

__all__ = ["Run", "find_identities"]

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from workers.intervene.site_checks import ABOUT, CHECKS, CLEAN, NOTHING, ProbedBlock, Row, returning
from workers.libraries.torch import is_of_machine
from workers.model.facts import ModelFacts
from workers.model.families import Family
from workers.model.hooks import Tap, Visit, Visits
from workers.model.layout import Target
from workers.model.places import Places
from workers.model.site_identities import ADDED, HEADS, Identities, SiteFinding, promised
from workers.tolerances import AGREEMENT, IN_BLOCK

Run = Callable[[Tensor, Sequence[tuple[Tap, Visit]]], Visits]
"""Runs prompts, token ids [B, T] or vectors [B, T, E], and shows their tensors to visits."""

_TOKENS = 4
_MOST_HEADS = 4
"""Heads of a site that are tried: the first two, a middle and the last one."""
_LOUD = 8.0
"""Noise in one head, in standard deviations of what the site holds: a norm over all heads then shows."""

_log = logging.getLogger("swapyard.model")


@torch.no_grad()
def find_identities(places: Places, run: Run) -> Identities:
    """Report on the identities of a model's named sites, and on the sites that are refused for it.

    Args:
        places: of the model; without a table of its family nothing is tried.
        run: runs the model.

    Raises:
        Exception: what says something of the machine, and nothing of the model.
    """
    facts, family = places.facts, places.family
    if facts is None or family is None or not promised(family):
        return Identities()
    reason = ""
    # Where a block takes no more rows than masks were made for, all rows run from the beginning.
    for is_grown in (True, False):
        try:
            with _full_precision(places.module):
                trial = _SiteProbe(places, facts, family)
                trial.run(run, is_grown=is_grown)
                return Identities.of(facts, family, trial.findings(), returned=trial.returned())
        except Exception as error:
            if is_of_machine(error):
                raise
            lines = str(error).strip().splitlines() or [""]
            reason = f"{type(error).__name__}: {lines[0][:200]}"
    _log.warning("the identities of the sites of %s cannot be tried: %s", places.name, reason)
    return Identities.of(facts, family, untried=reason)


@dataclass(slots=True)
class _BlockTensors:
    """Tensors kept of one block so far; see `ProbedBlock`."""

    sites: dict[str, Tensor] = field(default_factory=dict)
    children: dict[str, Tensor] = field(default_factory=dict)
    noise: Tensor | None = None


class _SiteProbe:
    """Forward that tries the identities of a model's sites, and the findings read off it."""

    def __init__(self, places: Places, facts: ModelFacts, family: Family) -> None:
        self._places, self._facts = places, facts
        blocks = places.module.get_submodule(places.blocks)
        self._blocks = _some_of_each_make(blocks)
        self._bound = _bound(blocks)
        self._promised = {
            site: names
            for site, names in promised(family).items()
            if all(_has(blocks, block, family.sites[site].module) for block in self._blocks)
        }
        self._added = [site for site, names in self._promised.items() if ADDED in names]
        self._rows = self._make_rows()
        self._held: list[ProbedBlock] = []

    def run(self, run: Run, *, is_grown: bool) -> None:
        """Do the forward.

        Args:
            run: runs the model.
            is_grown: whether only the blocks that are tried are given all rows.

        Raises:
            Exception: whatever it failed of.
        """
        prompt, num_rows = self._prompt(), 1 if is_grown else len(self._rows)
        kept = {block: _BlockTensors() for block in self._blocks}
        visits = [
            visit
            for block, found in kept.items()
            for visit in self._visits(block, found, len(self._rows) if is_grown else 1)
        ]
        faults = run(prompt.expand(num_rows, *prompt.shape[1:]), visits).faults()
        # A place with nothing to read can be read by no job either, which then says why.
        dumb = {
            site for site in self._promised for block in self._blocks if self._at(site, block).tap in faults
        }
        self._promised = {site: names for site, names in self._promised.items() if site not in dumb}
        self._held = [
            ProbedBlock(
                places=self._places,
                block=block,
                rows=self._rows,
                bound=self._bound,
                sites=found.sites,
                children=found.children,
                noise=found.noise,
            )
            for block, found in kept.items()
            if found.noise is not None and _is_finite(found)
        ]

    def findings(self) -> list[SiteFinding]:
        """Each identity of each site, at its worst in the blocks that were tried."""
        worst: dict[tuple[str, str], SiteFinding] = {}
        for one in self._each():
            known = worst.setdefault((one.site, one.identity), one)
            if (one.holds, -one.deviation) < (known.holds, -known.deviation):
                worst[one.site, one.identity] = one
        return list(worst.values())

    def returned(self) -> dict[str, str]:
        """Modules right inside the blocks that return what ``attention_added`` and ``mlp_added`` promise, by
        these names."""
        found: dict[str, str] = {}
        for site in ("attention_added", "mlp_added"):
            if self._held and self._promised.keys() >= ABOUT[ADDED]:
                names = set.intersection(*(returning(held, site) for held in self._held))
                found |= {site: min(names)} if names else {}
        return found

    def _each(self) -> Iterator[SiteFinding]:
        for held in self._held:
            for site, names in self._promised.items():
                for name in names:
                    if not self._promised.keys() >= ABOUT[name]:
                        continue
                    verdict = CHECKS[name](held, site)
                    yield SiteFinding(
                        site=site,
                        identity=name,
                        holds=verdict.holds,
                        deviation=verdict.deviation,
                        bound=self._bound,
                        blocks=tuple(one.block for one in self._held),
                        said="" if verdict.holds else verdict.said,
                    )

    def _at(self, site: str, block: int, head: int | None = None) -> Target:
        return self._places.locate(site, block, None if head is None else (head,), None)

    def _prompt(self) -> Tensor:
        """[1, T], or vectors [1, T, E]."""
        module, facts = self._places.module, self._facts
        config: object = getattr(module, "config", None)
        device = next(module.parameters()).device
        longest = getattr(config, "max_position_embeddings", None) or getattr(config, "max_tokens", None)
        num_tokens = min(_TOKENS, longest) if isinstance(longest, int) and longest > 0 else _TOKENS
        if facts.vocab_size is not None:
            return (torch.arange(num_tokens, device=device)[None] * 7 + 3) % facts.vocab_size
        generator = torch.Generator().manual_seed(0)
        return torch.randn(1, num_tokens, facts.input_width or facts.width, generator=generator).to(device)

    def _make_rows(self) -> list[Row]:
        heads = [
            Row(site, head)
            for site, names in self._promised.items()
            if HEADS in names
            for head in _some(self._at(site, 0).layout.num_heads)
        ]
        # Sites that are one tensor have one row, named by the first of them.
        first = {self._at(site, 0).tap: site for site in reversed(self._added)}
        return [CLEAN, *heads, NOTHING, *map(Row, reversed(first.values()))]

    def _visits(self, block: int, kept: _BlockTensors, grow_by: int) -> list[tuple[Tap, Visit]]:
        """Changes in a block, then the visits that keep its tensors, in this order at each tensor."""
        path = f"{self._places.blocks}.{block}"
        generator = torch.Generator().manual_seed(block)

        def enter(hidden: Tensor, _: int) -> Tensor:
            noise = torch.randn(hidden.shape[1:], generator=generator) * float(hidden.float().std())
            kept.noise = noise.to(hidden)
            return hidden.repeat(grow_by, 1, 1)

        def leave(hidden: Tensor, _: int) -> Tensor:
            return hidden[: len(hidden) // grow_by]

        children = self._places.module.get_submodule(path).named_children()
        return [
            (Tap(path, "input"), enter),
            *self._shouts(block, generator),
            *self._additions(block, kept),
            *((self._at(site, block).tap, _keeper(kept.sites, site)) for site in self._promised),
            *((Tap(f"{path}.{name}", "output"), _keeper(kept.children, name)) for name, _ in children),
            (Tap(path, "output"), leave),
        ]

    def _shouts(self, block: int, generator: torch.Generator) -> Iterator[tuple[Tap, Visit]]:
        """Add noise to a head, in its row: to queries at the last token, to keys and values one before."""
        for site in dict.fromkeys(row.site for row in self._rows if row.head is not None):
            rows = [(number, row.head) for number, row in enumerate(self._rows) if row.site == site]
            back = 1 if site.startswith("query") else 2

            def shout(tensor: Tensor, _: int, site: str = site, rows: Any = rows, back: int = back) -> Tensor:
                new, token = tensor.clone(), max(0, tensor.shape[1] - back)
                size = _LOUD * float(tensor[0].float().std())
                for number, head in rows:
                    columns = self._at(site, block, head).columns(tensor.shape[-1], tensor.device)
                    there = new[number, token, columns]
                    noise = torch.randn(there.shape, generator=generator) * size
                    new[number, token, columns] = there + noise.to(there)
                return new

            yield self._at(site, block).tap, shout

    def _additions(self, block: int, kept: _BlockTensors) -> Iterator[tuple[Tap, Visit]]:
        """Set what a part of the block adds: to noise in its own row, to nothing in the other rows."""
        taps = {row.site: self._at(row.site, block).tap for row in self._rows if row.site in self._added}
        numbers = {number: row.site for number, row in enumerate(self._rows) if row.site in taps}
        for tap in taps.values():
            own = [number for number, site in numbers.items() if taps[site] == tap]
            # One tensor may be two sites, as it is and multiplied: in the row of one the other leaves it.
            others = [n for n, site in numbers.items() if taps[site].unscaled != tap.unscaled]
            others.append(self._rows.index(NOTHING))

            def add(tensor: Tensor, _: int, own: Any = own, others: Any = others) -> Tensor:
                new = tensor.clone()
                new[others] = 0
                assert kept.noise is not None
                new[own] = kept.noise.to(new)
                return new

            yield tap, add


def _some_of_each_make(blocks: nn.Module) -> tuple[int, ...]:
    """Numbers of the first, a middle and the last block of each make, in order."""
    makes: dict[object, list[int]] = {}
    for number, block in enumerate(blocks.children()):
        makes.setdefault(_make(block), []).append(number)
    some = {one for made in makes.values() for one in (made[0], made[len(made) // 2], made[-1])}
    return tuple(sorted(some))


def _make(block: nn.Module) -> tuple[object, ...]:
    """Make of a block: the kinds of its modules, and numbers of its own, such as multipliers."""
    numbers = sorted((name, value) for name, value in vars(block).items() if isinstance(value, float))
    return (tuple(numbers), *((name, type(module)) for name, module in block.named_modules()))


def _has(blocks: nn.Module, block: int, path: str) -> bool:
    return any(name == path for name, _ in list(blocks.children())[block].named_modules())


def _bound(blocks: nn.Module) -> float:
    """Largest share of a number that rounding may make: that of the coarsest dtype of the weights."""
    dtypes = {str(parameter.dtype).removeprefix("torch.") for parameter in blocks.parameters()}
    # Weights in whole numbers, or in eight bits: each product is rounded by a scale of its own.
    return max(IN_BLOCK.get(dtype, max(AGREEMENT.values())) for dtype in dtypes)


def _some(count: int) -> list[int]:
    """A few of `count` heads."""
    return sorted({0, min(1, count - 1), count // 2, count - 1})[:_MOST_HEADS]


def _keeper(kept: dict[str, Tensor], name: str) -> Visit:
    """Keeps a copy of a tensor; what comes later may write into it."""

    def keep(tensor: Tensor, _: int) -> None:
        kept[name] = tensor.clone()

    return keep


def _is_finite(kept: _BlockTensors) -> bool:
    """Whether a block's clean row holds numbers: of infinities nothing can be told."""
    return all(bool(tensor[0].isfinite().all()) for tensor in kept.sites.values())


def _full_precision(module: nn.Module) -> AbstractContextManager[object]:
    """Without automatic casts to a coarser dtype, which a caller may have asked for."""
    kind = next(module.parameters()).device.type
    return torch.autocast(kind, enabled=False) if kind in ("cpu", "cuda") else nullcontext()
