"""What is said of the pairs of a plan: labels that none has, and columns that are called otherwise in SQL."""

__all__ = ["remarks"]

from orchestrator.plan.tables import Plan
from orchestrator.views.names import names_in_results
from studies.columns import INPUT, PAIR_COLUMNS

_LOST = {
    ("label", "base_label"): "iia, flip, prob, base_prob and logit_diff",
    ("label",): "iia, flip, prob and logit_diff",
    ("base_label",): "flip, base_prob and logit_diff",
}
"""What is NULL in every row where no pair has these labels."""
_NO_AXES = ("point", "lane", "block", "model")
_MOST_NAMES = 6


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
