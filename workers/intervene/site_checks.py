"""Identities of named sites, each as a check on the tensors of one block in the forward that tries them.

Shapes: R rows, T tokens, W width of the residual stream, H query heads, D width of a head.
"""

__all__ = ["ABOUT", "CHECKS", "CLEAN", "NOTHING", "ProbedBlock", "Row", "Verdict", "returning"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from workers.model.hooks import Tap
from workers.model.layout import Target
from workers.model.site_identities import ADDED, HEADS, MADE, PROJECTED, TOTAL

if TYPE_CHECKING:
    from workers.model.places import Places

_LEAST = 1e-30

MIXED = "attention_value_output"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a block: noise in one head of a site, or what a part of the block adds set to noise."""

    site: str
    head: int | None = None
    """The head; None where it is the whole site."""


CLEAN = Row("")
"""The row in which nothing is changed."""

NOTHING = Row("nothing")
"""The row in which attention and MLP add nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedBlock:
    """Tensors of one block in the forward that tries identities."""

    places: "Places"
    block: int
    rows: Sequence[Row]
    bound: float
    """Largest share of a number that rounding may make of it."""
    sites: Mapping[str, Tensor]
    """By site the tensor of its module [R, T, …], multiplied where the site is a product."""
    noise: Tensor
    """Noise that a part of the block was set to add, [T, W]."""
    children: Mapping[str, Tensor]
    """Outputs of modules right inside the block, by name, in all rows."""

    @property
    def left(self) -> Tensor:
        """Output of the block, [R, T, W]."""
        return self.sites["block_output"]

    def clean(self, site: str) -> Tensor:
        """A site's tensor in the clean row, [1, T, …]."""
        return self.sites[site][:1]

    def target(self, site: str, head: int | None = None) -> Target:
        """The columns of a site, or of one of its heads."""
        return self.places.locate(site, self.block, None if head is None else (head,), None)

    def tap(self, site: str) -> Tap:
        """Hook point of a site."""
        return self.target(site).tap

    def made_by(self, site: str, given: Tensor) -> Tensor:
        """Output of the module of a site for `given`, in float32."""
        output: Any = self.places.module.get_submodule(self.tap(site).module)(given)
        found: Tensor = output if isinstance(output, Tensor) else output[0]
        return found.float()

    def row_of(self, site: str) -> int:
        """The row in which what the site adds is noise: sites that are one tensor share it."""
        taps = {
            row.site: self.tap(row.site) for row in self.rows if row.head is None and row.site in self.sites
        }
        same = [other for other, tap in taps.items() if tap == self.tap(site)]
        return next(number for number, row in enumerate(self.rows) if row.head is None and row.site in same)

    def gained(self, site: str) -> tuple[Tensor, Tensor]:
        """Difference of the block's output [T, W] between where the site adds noise and where nothing is
        added.

        And the size of the numbers that this is a difference of.
        """
        more, less = self.left[self.row_of(site)].float(), self.left[self.rows.index(NOTHING)].float()
        return more - less, more.abs() + less.abs() + self.noise.float().abs()


class Verdict(NamedTuple):
    """Result of one check."""

    deviation: float
    """Largest one, as a share of what it is compared with."""
    holds: bool
    said: str
    """Words on how it fails."""


def returning(held: ProbedBlock, site: str) -> set[str]:
    """Modules right inside the block that return, where a site adds noise, what more leaves the block."""
    gained, scale = held.gained(site)
    row, nothing = held.row_of(site), held.rows.index(NOTHING)
    if not bool(gained.abs().max() > 0):
        return set()
    return {
        name
        for name, kept in held.children.items()
        if kept.shape == held.left.shape
        and _share(kept[row].float() - kept[nothing].float() - gained, scale) <= held.bound
    }


def _added(held: ProbedBlock, site: str) -> Verdict:
    wanted, (gained, scale) = held.noise.float(), held.gained(site)
    share = _share(gained - wanted, scale)
    if share <= held.bound:
        return Verdict(share, True, "")
    times = float((gained * wanted).sum() / wanted.square().sum().clamp_min(_LEAST))
    off = _of_largest(gained - wanted, wanted)
    if _share(gained - times * wanted, scale) <= 4 * held.bound:
        return Verdict(off, False, f"the block adds {times:.3g} times {site}")
    return Verdict(off, False, f"the block adds something else than {site}, by {off:.0%} of it")


def _total(held: ProbedBlock, site: str) -> Verdict:
    before, after = held.clean("block_input")[0].float(), held.left[0].float()
    bare = held.left[held.rows.index(NOTHING)].float()
    attention, mlp = (held.clean(name)[0].float() for name in ("attention_added", "mlp_added"))
    scale = before.abs() + after.abs() + attention.abs() + mlp.abs()
    share = max(_share(after - before - attention - mlp, scale), _share(bare - before, scale))
    return Verdict(share, share <= held.bound, "the block adds more than attention_added and mlp_added")


def _heads(held: ProbedBlock, site: str) -> Verdict:
    """Noise in a head, at the token that is looked at or at one that it sees."""
    last = held.sites[MIXED][:, -1].float()  # [R, H · D]
    num_heads = held.target(site).layout.num_heads
    worst, said = 0.0, ""
    for number, row in enumerate(held.rows):
        if row.site != site or row.head is None:
            continue
        off = list(_by_head(held, last[number] - last[0], last[0]))
        served = range(row.head * len(off) // num_heads, (row.head + 1) * len(off) // num_heads)
        others = [other for other in range(len(off)) if other not in served]
        if others and (found := max(off[other] for other in others)) >= worst:
            other = max(others, key=lambda one: off[one])
            worst = found
            said = f"a change of head {row.head} of {site} changes head {other} of {MIXED}, by {found:.1%}"
    return Verdict(worst, worst <= held.bound, said)


def _by_head(held: ProbedBlock, moved: Tensor, clean: Tensor) -> Iterator[float]:
    """Size of each query head's part of `moved` [H · D], as a share of the largest number of `clean`."""
    for head in range(held.target(MIXED).layout.num_heads):
        columns = held.target(MIXED, head).columns(len(moved), moved.device)
        yield _of_largest(moved[columns], clean)


def _projected(held: ProbedBlock, site: str) -> Verdict:
    mixed, wanted = held.clean(MIXED)[0, -1], held.clean("attention_output")[0, -1].float()
    num_heads = held.target(MIXED).layout.num_heads
    each = mixed.new_zeros(num_heads + 1, 1, len(mixed))
    for head in range(num_heads):
        columns = held.target(MIXED, head).columns(len(mixed), mixed.device)
        each[head, 0, columns] = mixed[columns]
    made = held.made_by(MIXED, each)[:, 0]  # [H + 1, W]
    bias = made[-1]
    parts = made[:-1] - bias
    off = _of_largest(parts.sum(0) + bias - wanted, torch.cat([parts, wanted[None]]))
    what = "its heads through the output projection sum to something else than attention_output"
    if site != MIXED:
        what = "it is not the sum of the heads of attention_value_output through the output projection"
    return Verdict(off, off <= held.bound, f"{what}, by {off:.0%}")


def _made(held: ProbedBlock, site: str) -> Verdict:
    """Modules, given what the block held at a site, return what it held at the sites after it."""
    if site == "attention_input":
        after = ("query_output", "key_output", "value_output")
        made = {name: held.made_by(name, held.clean(site)) for name in after}
    else:
        by = site if site == "mlp_activation" else "mlp_output"
        made = {"mlp_output": held.made_by(by, held.clean("mlp_input" if site == "mlp_output" else site))}
    off = max(
        _of_largest(tensor - held.clean(name).float(), held.clean(name)) for name, tensor in made.items()
    )
    return Verdict(off, off <= held.bound, f"{' and '.join(made)} are made of more than {site}")


def _share(error: Tensor, scale: Tensor) -> float:
    """The largest error, as a share of the number that it is an error of."""
    return float((error.abs() / scale.clamp_min(_LEAST)).max().nan_to_num(torch.inf))


def _of_largest(error: Tensor, numbers: Tensor) -> float:
    """The largest error, as a share of the largest of `numbers`."""
    largest = numbers.float().abs().max().clamp_min(_LEAST)
    return float((error.float().abs().max() / largest).nan_to_num(torch.inf))


CHECKS: Mapping[str, Callable[[ProbedBlock, str], Verdict]] = {
    ADDED: _added,
    HEADS: _heads,
    MADE: _made,
    PROJECTED: _projected,
    TOTAL: _total,
}
"""By identity, what tries it for a site."""

ABOUT: Mapping[str, frozenset[str]] = {
    ADDED: frozenset({"attention_added", "mlp_added"}),
    HEADS: frozenset({MIXED}),
    MADE: frozenset({"query_output", "key_output", "value_output", "mlp_input", "mlp_output"}),
    PROJECTED: frozenset({MIXED, "attention_output"}),
    TOTAL: frozenset({"block_input", "attention_added", "mlp_added"}),
}
"""Sites that must be there for an identity, besides its own."""
