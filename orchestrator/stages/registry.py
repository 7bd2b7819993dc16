"""Registry of stages: the folders beside this file, and entry points of installed packages."""

__all__ = ["find_stage", "find_stages"]

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points

import orchestrator.stages
from orchestrator.stages import GROUP
from orchestrator.stages.contract import Stage
from workers.errors import RunError


@cache
def find_stages() -> tuple[Stage, ...]:
    """All stages: those that change the plan first, then in the order of their names.

    Raises:
        RunError: an entry point names no stage, or two stages have one name.
    """
    folders = [one.name for one in pkgutil.iter_modules(orchestrator.stages.__path__) if one.ispkg]
    found = [importlib.import_module(f"orchestrator.stages.{name}.stage").STAGE for name in folders]
    found += [point.load() for point in entry_points(group=GROUP)]
    for one in found:
        if not isinstance(one, Stage):
            raise RunError(f"an entry point of the group {GROUP} names {one!r}, which is no stage")
        if sum(other.name == one.name for other in found) > 1:
            raise RunError(f"two stages are called {one.name!r}; uninstall one of the packages")
    return tuple(sorted(found, key=lambda one: (not one.changes_plan, one.order, one.name)))


def find_stage(name: str) -> Stage:
    """The stage of a name."""
    return next(one for one in find_stages() if one.name == name)
