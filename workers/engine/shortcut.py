"""Which jobs provably change nothing that is read, so that the base's clean run is their answer.

What makes this sound, in a model that a check at load showed to be causal. A unit is *harmless* if

- it puts back what is there: a vanilla swap with the base's own run at the same place; or with a
  source's, where base and source agree on every token up to each of the unit's, since what is at a
  token depends on no later one; or
- what it changes cannot reach the token read: it lies at later tokens only; or, in the last block, at
  other tokens and at a site whose change stays at its token (past the attention's mixing, or a query).

Several harmless units are harmless together: those of the first kind write clean values, so whatever
differs from the clean run stems from the second kind, and its reach does not include the token read.

Noise, fits and the values of named runs are changes like any other: they never put back what is there. The
runs themselves change nothing in the job's own run.

A collection needs a forward of its own, and of coordinates that are no position nothing is known.

Of what lies at a module path only the base's own value is trusted: such a module may shift tokens.
"""

__all__ = ["is_unchanged"]

from workers.change.jobs import Change, Job
from workers.change.operations import COLLECT
from workers.change.values import Taken
from workers.facts import ModelFacts
from workers.sites import SITES
from workers.vocabulary import Cell, Pair, Unit


def is_unchanged(job: Job, cell: Cell, pair: Pair, facts: ModelFacts) -> bool:
    """Whether `job`, which is `cell` on `pair`, gives what the clean base run gives in a causal model."""
    return all(
        _is_harmless(unit, change, job, pair, facts)
        for unit, change in zip(cell.units, job.changes, strict=True)
    )


def _is_harmless(unit: Unit, change: Change, job: Job, pair: Pair, facts: ModelFacts) -> bool:
    if unit.operation == COLLECT or unit.place.coordinates is not None:
        return False
    return _puts_back(unit, change, pair) or _cannot_reach(unit, change, job.read, facts)


def _puts_back(unit: Unit, change: Change, pair: Pair) -> bool:
    place, origin = unit.place, unit.origin
    if unit.run not in pair.tokens:
        return False
    if origin is None or unit.operation != "vanilla" or change.step.is_pooled:
        return False
    is_same_place = (place.site, place.layer, place.heads) == (origin.site, origin.layer, origin.heads)
    if not is_same_place or not isinstance(change.value, Taken) or change.tokens != change.value.tokens:
        return False
    if unit.run == "base":
        return True
    end = max(change.tokens, default=-1) + 1
    return place.site in SITES and pair.tokens["base"][:end] == pair.tokens[unit.run][:end]


def _cannot_reach(unit: Unit, change: Change, read: int, facts: ModelFacts) -> bool:
    site = SITES.get(unit.place.site)
    if site is None:
        return False
    stays = site.stays and unit.place.layer == facts.num_layers - 1
    return all(token > read or (stays and token != read) for token in change.tokens)
