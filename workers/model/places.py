"""Hook points of a module: a site's name, or a module path, resolved to columns of a module's tensor."""

__all__ = ["Places", "blocks_path"]

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from workers.errors import ModelError
from workers.model.facts import ModelFacts
from workers.model.families import Family, family_of, sites_of
from workers.model.hooks import Tap
from workers.model.layout import WHOLE, Dims, Heads, Target, layout_of
from workers.model.site_identities import Identities, may_refuse
from workers.model.sites import SITES, check_site, is_module_path, num_heads, split_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Hook points of a module: named sites where a table knows its family, module paths in any."""

    module: nn.Module
    name: str
    """Of the model, in errors."""
    facts: ModelFacts | None = None
    """None for a module that has no config."""
    family: Family | None = None
    """None where no table names the model's sites."""
    blocks: str = ""
    """Path of the list of blocks, where there is a family."""
    identities: Callable[[], Identities] = Identities
    """Gives the report on the named sites, made where it was not made before; nothing is refused without."""

    def target(
        self,
        site: str,
        layer: int | None,
        heads: Heads | None,
        dims: Dims | None,
        *,
        changes: bool = True,
    ) -> Target:
        """The columns of the tensor that a place means; dimensions are of each head, where heads are named.

        Args:
            site: a name, or a module path.
            layer: number of the block.
            heads: which; None for the whole width.
            dims: which; None for all.
            changes: whether what is there is changed, or only read.

        Raises:
            ModelError: the model has no such site, layer, head or module, or the site is refused.
        """
        if self.is_path(site):
            return self._module_target(site, layer, heads, dims)
        check_site(site)
        if is_module_path(site):
            raise ModelError(f"{self.name} has no module {split_path(site)[0]!r}, which site {site!r} names")
        found = self.locate(site, layer, heads, dims)
        if (why := self.why_refused(site, heads, changes=changes)) is not None:
            raise ModelError(why)
        return found

    def why_refused(self, site: str, heads: Heads | None, *, changes: bool) -> str | None:
        """Why a named site is refused, and what to name instead; None where it is not, or has no table."""
        if self.facts is None or self.family is None:
            return None
        if not may_refuse(self.family, site, heads=heads is not None, changes=changes):
            return None
        count = num_heads(site, self.facts)
        refusal = self.identities().refusal(site, heads=heads, num_heads=count, changes=changes)
        return None if refusal is None else f"{self.name} ({self.facts.model_type}): {refusal}"

    def is_path(self, site: str) -> bool:
        """Whether `site` is the path of a module that is there; ``fc1`` is one without a dot."""
        return site not in SITES and self._has_module(split_path(site)[0])

    def by_step(self, target: Target) -> Target:
        """The target in a module that runs once for each time step."""
        return target if target.tap.per_step else replace(target, tap=replace(target.tap, per_step=True))

    def locate(self, site: str, layer: int | None, heads: Heads | None, dims: Dims | None) -> Target:
        """As `target`, for a named site, whether it is refused or not."""
        if self.facts is None or self.family is None:
            family_of(self.name if self.facts is None else self.facts.model_type)
            raise ModelError(f"{self.name} has not the blocks of its family; name its sites as module paths")
        family, facts = self.family, self.facts
        if site not in family.sites:
            raise ModelError(
                f"{self.name} ({family.name}) has no site {site!r}; it has {', '.join(sites_of(facts))}"
            )
        if layer is None or not 0 <= layer < facts.num_layers:
            what = f"{site} needs a layer" if layer is None else f"{site} at layer {layer}"
            raise ModelError(f"{what}: {self.name} has layers 0 to {facts.num_layers - 1}")
        _check_heads(site, heads, num_heads(site, facts))
        spot = family.sites[site]
        block = f"{self.blocks}.{layer}"
        scale = (
            1.0 if spot.times is None else float(getattr(self.module.get_submodule(block), spot.times, 1.0))
        )
        path = ".".join(filter(None, (block, spot.module)))
        tap = Tap(path, spot.side, per_step=family.positions == "step", scale=scale)
        return Target(tap, layout_of(site, spot.part, family, facts), heads, dims)

    def _module_target(self, site: str, layer: int | None, heads: Heads | None, dims: Dims | None) -> Target:
        if layer is not None or heads is not None:
            raise ModelError(f"site {site!r} is a module path: it takes neither a layer nor heads")
        path, side = split_path(site)
        return Target(Tap(path, side), WHOLE, None, dims)

    def _has_module(self, path: str) -> bool:
        try:
            self.module.get_submodule(path)
        except AttributeError:
            return False
        return True


def blocks_path(module: nn.Module, family: Family) -> str | None:
    """Path of the family's list of blocks in a module: with its head, without it, or wrapped; or None.

    ``transformer.h`` of a GPT-2 with a head is ``h`` of one without.
    """
    names = {name for name, _ in module.named_modules()}
    for path in (family.blocks, family.blocks.partition(".")[2]):
        if path and path in names:
            return path
    nested = [name for name in names if name.endswith(f".{family.blocks}")]
    return nested[0] if len(nested) == 1 else None


def _check_heads(site: str, heads: Heads | None, available: int | None) -> None:
    if heads is None:
        return
    if available is None:
        raise ModelError(f"site {site!r} has no heads; leave out 'head'")
    if not heads or not all(0 <= head < available for head in heads):
        raise ModelError(f"heads {list(heads)} of {site}: there are heads 0 to {available - 1}")
