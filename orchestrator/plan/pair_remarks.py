"""Remarks on a plan's pairs: why some are left out, labels that none has, columns of another name in SQL.

Reasons that differ in words and numbers only are one kind.
"""

__all__ = ["NOT_DRAWN", "NOT_READ", "LeftOut", "left_out", "of_table", "remarks"]

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from orchestrator.plan.tables import Plan
from orchestrator.query.columns import names_in_results
from studies.names import INPUT, PAIR_COLUMNS

NOT_DRAWN = "enough pairs without it"
NOT_READ = "its label is of another output"

_GIVEN = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d[\d,]*")
"""Parts of a reason that differ from pair to pair: words in quotes, and numbers."""

_MOST_KINDS = 8
_MOST_PAIRS = 3
_MOST_TEXT = 400

_LOST = {
    ("label", "base_label"): "iia, flip, prob, base_prob and logit_diff",
    ("label",): "iia, flip, prob and logit_diff",
    ("base_label",): "flip, base_prob and logit_diff",
}
"""Metrics that are NULL in every row where no pair has these labels."""
_NO_AXES = ("point", "lane", "block", "model")
_MOST_NAMES = 6


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Pairs that are left out for one kind of reason."""

    count: int
    reason: str
    """Reason of the first of them."""
    pairs: tuple[int, ...]
    """The first of them, as given."""

    @property
    def text(self) -> str:
        """Number, first pairs and reason, in a line."""
        which = ", ".join(map(str, self.pairs)) + (" …" if self.count > len(self.pairs) else "")
        pairs = "pair" if self.count == 1 else "pairs"
        why = self.reason if len(self.reason) <= _MOST_TEXT else f"{self.reason[:_MOST_TEXT]}…"
        return f"{self.count:,} × {why} ({pairs} {which})"


def left_out(reasons: Iterable[tuple[int, str | None]]) -> list[LeftOut]:
    """Kinds of reasons, the most frequent first; `reasons` are of given pairs by number, None of one kept."""
    kinds: dict[str, tuple[str, list[int]]] = {}
    for given, reason in reasons:
        if reason is not None:
            kinds.setdefault(_GIVEN.sub("…", reason), (reason, []))[1].append(given)
    found = [LeftOut(len(pairs), reason, tuple(pairs[:_MOST_PAIRS])) for reason, pairs in kinds.values()]
    found.sort(key=lambda one: -one.count)
    rest = found[_MOST_KINDS:]
    if not rest:
        return found
    others = LeftOut(sum(one.count for one in rest), f"{len(rest)} other reasons", rest[0].pairs)
    return [*found[:_MOST_KINDS], others]


def of_table(inputs: pa.Table) -> list[LeftOut]:
    """Kinds of reasons in a plan's table of inputs, but for pairs that were only not needed."""
    columns = (inputs[name].to_pylist() for name in ("given", "reason"))
    reasons = zip(*columns, strict=True)
    return left_out((given, reason) for given, reason in reasons if reason not in (NOT_DRAWN, NOT_READ))


def remarks(plan: Plan) -> list[str]:
    """Lines for people, none where nothing is out of the ordinary."""
    return [*_about_labels(plan), *_about_names(plan)]


def _about_labels(plan: Plan) -> list[str]:
    inputs = plan.tables["inputs"]
    kept = inputs["kept"].to_pylist()
    missing = tuple(
        name
        for name in ("label", "base_label")
        if not any(
            ids for ids, is_kept in zip(inputs[f"{name}_ids"].to_pylist(), kept, strict=True) if is_kept
        )
    )
    if not missing:
        return []
    own = [name for name in plan.tables["pairs"].column_names if not _is_ours(name)]
    others = f"; the pairs' other columns are {_listed(own)}" if own else ""
    return [f"no pair has a {' or a '.join(missing)}: {_LOST[missing]} are NULL in every row{others}"]


def _is_ours(name: str) -> bool:
    return name in PAIR_COLUMNS or INPUT.fullmatch(name) is not None


def _about_names(plan: Plan) -> list[str]:
    axes = [name for name in plan.tables["points"].column_names if name not in _NO_AXES]
    names = names_in_results(plan.tables["pairs"].column_names, axes)
    moved = [f'"{public}"' for name, public in names.items() if public != name]
    if not moved:
        return []
    return [f"columns of the pairs whose names are taken are, in results, {_listed(moved)}"]


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
