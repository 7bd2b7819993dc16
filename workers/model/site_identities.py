"""Promises of the names of sites, and refusal of sites that do not keep them. No torch here.

A name promises an identity, such as that what ``attention_added`` holds is what the block adds to its
residual stream. `workers.intervene.site_probe` tries each identity on the loaded model. A site whose identity
fails is refused, with the reason and with what to name instead; what the tables and the config know of it is
refused before anything is loaded.
"""

__all__ = [
    "ADDED",
    "HEADS",
    "IDENTITIES",
    "MADE",
    "PROJECTED",
    "TOTAL",
    "Identities",
    "Refusal",
    "SiteFinding",
    "known_refusals",
    "may_refuse",
    "promised",
]

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Self

from workers.model.facts import ModelFacts
from workers.model.families import Family

ADDED, HEADS, MADE, PROJECTED, TOTAL = "added", "heads apart", "made", "heads sum", "total"

IDENTITIES: Mapping[str, str] = MappingProxyType(
    {
        TOTAL: "block_output - block_input = attention_added + mlp_added, and nothing else is added",
        ADDED: "a change of it changes what the block adds to its residual stream by as much",
        HEADS: "a change of one head leaves the part of the heads that it does not serve as it was",
        PROJECTED: "its heads, each through its slice of the output projection, sum with the bias to"
        " attention_output",
        MADE: "queries, keys and values are made of attention_input, mlp_output of mlp_input, and of"
        " mlp_activation by the output projection",
    }
)
"""Identities by the word that reports use."""

_REFUSES = frozenset({ADDED, HEADS, PROJECTED})
"""Identities without which a site is refused; of the others a failure is only shown."""

_BETTER: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("attention_output", "attention_post_norm_output"), "attention_added"),
        **dict.fromkeys(("mlp_output", "mlp_post_norm_output"), "mlp_added"),
    }
)
_POST_NORM = {"attention_output": "attention_post_norm_output", "mlp_output": "mlp_post_norm_output"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFinding:
    """One identity of one site, as it was tried on a loaded model."""

    site: str
    identity: str
    """A word of `IDENTITIES`."""
    holds: bool
    deviation: float
    """Largest one, as a share of the largest number that it is compared with."""
    bound: float
    """Largest deviation that rounding in the model's dtype may make."""
    blocks: tuple[int, ...]
    """Blocks in which it was tried."""
    said: str = ""
    """Words on how it fails; empty where it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A site that is refused, or of which only single heads are."""

    site: str
    reason: str
    advice: str
    """Hint at what to write instead."""
    single_heads: bool = False
    """Whether changes of single heads alone are refused: the whole site may be changed, and heads read."""

    def __str__(self) -> str:
        what = f"single heads of {self.site} are" if self.single_heads else f"{self.site} is"
        return f"{what} refused: {self.reason}; {self.advice}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identities:
    """Report on the named sites of one loaded model: which identities hold, and what is refused."""

    findings: tuple[SiteFinding, ...] = ()
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    """By site."""
    untried: str = ""
    """Why nothing was tried; empty where something was."""

    @classmethod
    def of(
        cls,
        facts: ModelFacts,
        family: Family,
        findings: Sequence[SiteFinding] = (),
        *,
        untried: str = "",
        returned: Mapping[str, str] | None = None,
    ) -> Self:
        """The report of a model's findings.

        Args:
            facts: of the model.
            family: its table.
            findings: what was tried.
            untried: why nothing was.
            returned: paths of modules inside the block that were seen to return what ``attention_added`` or
                ``mlp_added`` should be, by site.
        """
        failed = [one for one in findings if not one.holds and one.identity in _REFUSES]
        good = family.sites.keys() - {one.site for one in failed}
        refusals = known_refusals(facts, family)
        for site in dict.fromkeys(one.site for one in failed):
            own, known = [one for one in failed if one.site == site], refusals.get(site)
            said = " and ".join(one.said for one in own)
            names = {one.identity for one in own}
            refusals[site] = Refusal(
                site=site,
                reason=said if known is None else f"{known.reason} (tried at load: {said})",
                advice=_advice(site, family, good, returned or {}, heads=names == {HEADS}),
                single_heads=names == {HEADS} and _has_own_module(family, site),
            )
        return cls(findings=tuple(findings), refusals=refusals, untried=untried)

    def refusal(
        self, site: str, *, heads: Collection[int] | None, num_heads: int | None, changes: bool
    ) -> Refusal | None:
        """Why a place is refused; None where it is not.

        Args:
            site: its name.
            heads: which it names; None for the whole site.
            num_heads: that the site has.
            changes: whether the place is changed, or only read.
        """
        found = self.refusals.get(site)
        if found is None or not found.single_heads:
            return found
        is_whole = heads is None or len(set(heads)) == num_heads
        return found if changes and not is_whole else None

    def shown(self, site: str) -> str:
        """Short text on a site: the identities that hold, and those that fail."""
        own = [one for one in self.findings if one.site == site]
        words = [
            one.identity if one.holds else f"NOT {one.identity} ({_share(one.deviation)})" for one in own
        ]
        if not words and site in self.refusals:
            words = ["refused"]
        return ", ".join(words)

    def lines(self, dtype: str) -> list[str]:
        """Lines for people: the words of `shown` explained, how they were found, and the refusals."""
        words = dict.fromkeys(one.identity for one in self.findings)
        lines = [str(refusal) for refusal in self.refusals.values()]
        lines += [f"{word}: {IDENTITIES[word]}" for word in IDENTITIES if word in words]
        if self.findings:
            blocks = ", ".join(map(str, self.findings[0].blocks))
            bound = self.findings[0].bound
            lines.append(f"tried on the loaded model, in {dtype} (to {bound:.0e}), in blocks {blocks}")
        if self.untried:
            lines.append(f"not tried on the loaded model: {self.untried}")
        return lines

    def to_json(self) -> str:
        """The report as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        findings = (SiteFinding(**{**one, "blocks": tuple(one["blocks"])}) for one in data["findings"])
        refusals = {site: Refusal(**one) for site, one in data["refusals"].items()}
        return cls(findings=tuple(findings), refusals=refusals, untried=data["untried"])


def promised(family: Family) -> dict[str, tuple[str, ...]]:
    """Identities that the names of a family's sites promise; none where its blocks have no attention."""
    if "attention_output" not in family.sites:
        return {}
    own: dict[str, tuple[str, ...]] = {
        **dict.fromkeys(("block_input", "block_output"), (TOTAL,)),
        **dict.fromkeys(("attention_input", "mlp_input", "mlp_activation"), (MADE,)),
        **dict.fromkeys(("query_output", "key_output", "value_output"), (HEADS,)),
        **dict.fromkeys(("query_norm_output", "key_norm_output"), (HEADS,)),
        **dict.fromkeys(("attention_added", "mlp_added"), (ADDED,)),
        **dict.fromkeys(_POST_NORM.values(), (ADDED,)),
        "attention_value_output": (PROJECTED,),
    }
    # With a norm of its own, what the attention returns is not what is added, and its name does not say so.
    is_added = {site: () if norm in family.sites else (ADDED,) for site, norm in _POST_NORM.items()}
    own["attention_output"] = (PROJECTED, *is_added["attention_output"])
    own["mlp_output"] = is_added["mlp_output"] or (MADE,)
    return {site: own[site] for site in family.sites if site in own}


def may_refuse(family: Family, site: str, *, heads: bool, changes: bool) -> bool:
    """Whether the place of a family may be refused at all, whatever its models do.

    Args:
        family: its table.
        site: the place's name.
        heads: whether it names heads.
        changes: whether it is changed there, or only read.
    """
    names = _REFUSES.intersection(promised(family).get(site, ()))
    is_wrong_share = HEADS in names and not _has_own_module(family, site)
    return bool(names - {HEADS}) or is_wrong_share or (HEADS in names and heads and changes)


def known_refusals(facts: ModelFacts, family: Family) -> dict[str, Refusal]:
    """Sites that are refused by what the table and the config say, before anything is loaded."""
    found: dict[str, Refusal] = {}
    by = facts.residual_multiplier
    for site, better in _BETTER.items():
        spot = family.sites.get(better)
        if site in family.sites and spot is not None and spot.times is not None and by != 1.0:
            found[site] = Refusal(
                site=site,
                reason=f"it is not what is added: the block multiplies it by its {spot.times}, {by:g}, first",
                advice=_advice(site, family, family.sites.keys(), {}, heads=False),
            )
    for site in family.norm_of_heads:
        found[site] = Refusal(
            site=site,
            reason="a norm over all heads follows, so that a change of one head changes the others too",
            advice=_advice(site, family, family.sites.keys(), {}, heads=True),
            single_heads=True,
        )
    return found


def _has_own_module(family: Family, site: str) -> bool:
    """Whether a site is no share of a projection that makes several: where the heads of a share are not where
    the table says, the share itself is not either."""
    return family.sites[site].part is None


def _advice(
    site: str, family: Family, good: Collection[str], returned: Mapping[str, str], *, heads: bool
) -> str:
    """Hint at what to name instead, of the sites that are `good`; a module's path promises nothing."""
    spot = family.sites[site]
    if heads and _has_own_module(family, site):
        better = family.norm_of_heads.get(site)
        whole = "leave 'head' out: the whole site may be changed"
        return f"name heads at {better}, or {whole}" if better in good else whole
    better = _BETTER.get(site, site)
    if better in good and better != site:
        return f"take {better}"
    if better in returned:
        return f"what is added is what {family.blocks}.$layer.{returned[better]} returns: name that path"
    path = ".".join(filter(None, (family.blocks, "$layer", spot.module)))
    side = ":input" if spot.side == "input" else ""
    return f"no named site has it; what the module itself holds is {path}{side}"


def _share(deviation: float) -> str:
    """A deviation in per cent; without decimals where it is large."""
    return f"off by {deviation:.0%}" if deviation >= 0.1 else f"off by {deviation:.1g}"
