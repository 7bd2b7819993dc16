"""Split of pairs into those that a fit is made from and those that measure it; they share no prompt."""

__all__ = ["apart", "split"]

from collections.abc import Hashable, Sequence

from workers.digests import digest_of

HELD_OUT = 0.2
"""Share of the pairs that is held out without a ``where``."""
HELD_OUT_PROMPTS = 0.3
"""Share of the prompts held out where all pairs are linked: of ordered pairs it leaves half to fit."""

Prompts = Sequence[Hashable]
"""The prompts of one pair: its base and the source that a fit takes values from."""


def apart(pairs: Sequence[Prompts], others: Sequence[Prompts]) -> list[int]:
    """The numbers of those `others` that share no prompt with any of `pairs`."""
    known = {prompt for prompts in pairs for prompt in prompts}
    return [number for number, prompts in enumerate(others) if known.isdisjoint(prompts)]


def split(pairs: Sequence[Prompts], keys: Sequence[str], seed: int) -> tuple[list[int], list[int]]:
    """The numbers of the pairs to fit, and of those held out: a split by base and source, drawn from `seed`.

    Pairs that are linked by prompts stay together. Where all are linked, as ordered pairs of a few prompts
    are, prompts are held out instead, and the pairs that have one of either kind are in neither list.

    Args:
        pairs: the prompts of each.
        keys: a name for each pair that depends on nothing else, such as its id.
        seed: of the draw.
    """
    groups = _linked(pairs)
    if len(groups) > 1:
        return _dealt(groups, keys, seed)
    prompts = sorted({prompt for one in pairs for prompt in one}, key=lambda one: _drawn(seed, repr(one)))
    held_out = frozenset(prompts[: round(HELD_OUT_PROMPTS * len(prompts))])
    inside = [number for number, one in enumerate(pairs) if held_out.isdisjoint(one)]
    outside = [number for number, one in enumerate(pairs) if held_out.issuperset(one)]
    # Too few prompts to do without some: then there is nothing to measure on.
    return (inside, outside) if inside and outside else (list(range(len(pairs))), [])


def _dealt(groups: Sequence[Sequence[int]], keys: Sequence[str], seed: int) -> tuple[list[int], list[int]]:
    """Whole groups, in an order drawn from the seed, until a fifth of the pairs is held out."""
    order = sorted(groups, key=lambda group: _drawn(seed, min(keys[number] for number in group)))
    wanted = HELD_OUT * sum(map(len, groups))
    held_out: list[int] = []
    kept: list[int] = []
    for group in order[:-1]:
        (held_out if len(held_out) + len(group) / 2 <= wanted else kept).extend(group)
    kept.extend(order[-1])
    return sorted(kept), sorted(held_out)


def _linked(pairs: Sequence[Prompts]) -> list[list[int]]:
    """Groups of pairs of which none shares a prompt with another group."""
    leader: dict[Hashable, Hashable] = {}

    def find(prompt: Hashable) -> Hashable:
        while leader.setdefault(prompt, prompt) != prompt:
            leader[prompt] = leader[leader[prompt]]
            prompt = leader[prompt]
        return prompt

    for prompts in pairs:
        for other in prompts[1:]:
            leader[find(other)] = find(prompts[0])
    groups: dict[Hashable, list[int]] = {}
    for number, prompts in enumerate(pairs):
        groups.setdefault(find(prompts[0]), []).append(number)
    return list(groups.values())


def _drawn(seed: int, key: str) -> str:
    return digest_of(f"{seed}/{key}".encode())
