"""The one rule of names that become files or tables: of studies, plots, fits, trainings and blocks."""

__all__ = ["NAME_RULE", "is_name", "is_plain_file"]

import re
from typing import Any

NAME_RULE = "a folder's name: up to 100 letters, digits, '.', '_', '-', first a letter or digit"
"""The rule, in words."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")


def is_name(value: Any) -> bool:
    """Whether a study, and what it names itself, may have this name."""
    return isinstance(value, str) and _SAFE_NAME.fullmatch(value) is not None


def is_plain_file(name: str) -> bool:
    """Whether a file of this name lies in the folder that it is put into: studies of before there was a rule
    may have names with blanks."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"} and len(name.encode()) < 200
