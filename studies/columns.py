"""Names that a study may give: a rule for names of files and tables, and columns that the views have."""

__all__ = ["NAME_RULE", "PAIR_COLUMNS", "RESERVED", "RESULT_COLUMNS", "is_name", "is_plain_file"]

import re

from workers.metrics import DERIVED, OBSERVED, RUN_VALUES

PAIR_COLUMNS = ("base", "source", "base_label", "source_label", "label")
"""The columns of a pair that ``results`` always has, NULL where a study does not give them."""

RESULT_COLUMNS = (
    *("study", "cell_id", "pair_id", "job_id", "model", "dtype", "revision", "block"),
    *("base_position", "base_positions", "source_positions", "base_tokens"),
    *(metric.name for metric in OBSERVED),
    *(f"{run}_run_{value}" for run in ("base", "source") for value in RUN_VALUES),
    *(metric.name for metric in DERIVED),
    *("estimate", "tier"),
)
"""The columns of ``results`` besides axes and those of a pair."""

_OTHERS = (
    *("role", "token", "logit", "logprob", "rank"),
    *("collected_unit", "collected_token", "collected", "_collected", "_one", "_pair_number"),
    *("units", "num_jobs", "num_done"),
    *("selected", "weight", "estimated_effect", "estimated_change", "num_estimates"),
    *("exact_effect", "exact_change", "num_exact"),
    *("attempt", "error_type", "error_message"),
    *("_point", "_lane", "_block"),
)
"""Columns beside axes in ``scores``, ``activations``, ``cells``, ``screening``, ``failures``, and a plan."""

RESERVED = frozenset((*PAIR_COLUMNS, *RESULT_COLUMNS, *_OTHERS))
"""Names that are taken in every spelling, for SQL does not tell ``IIA`` from ``iia``."""


NAME_RULE = "a folder's name: up to 100 letters, digits, '.', '_', '-', first a letter or digit"
"""The rule, in words."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")


def is_name(value: object) -> bool:
    """Whether a study, and what it names itself, may have this name."""
    return isinstance(value, str) and _SAFE_NAME.fullmatch(value) is not None


def is_plain_file(name: str) -> bool:
    """Whether a file of this name lies in the folder that it is put into: studies of before there was a rule
    may have names with blanks."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"} and len(name.encode()) < 200
