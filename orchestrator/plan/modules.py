"""The paths of a model's modules, for a planner that loads no torch.

A child process makes the model without its weights, which takes seconds; what it finds is kept in the user's
cache, named by the model's revision.
"""

__all__ = ["known_modules"]

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version

from workers.children import run
from workers.facts import ModelFacts
from workers.model.cache import cache_folder
from workers.vocabulary import ModelSpec

_log = logging.getLogger(__name__)


def known_modules(spec: ModelSpec, facts: ModelFacts, say: Callable[[str], None]) -> frozenset[str] | None:
    """The paths of all modules; None where the library cannot make the model without its weights.

    Args:
        spec: which model.
        facts: of it.
        say: gets a line where a child has to be asked.
    """
    # The library decides how modules are named.
    path = cache_folder() / "modules" / f"{facts.revision}-{version('transformers')}.json"
    with suppress(OSError, ValueError):
        return frozenset(json.loads(path.read_text()))
    say(f"finding the modules of {spec.ref}")
    found = _asked(spec, facts)
    if found is not None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(sorted(found)))
    return found


def _asked(spec: ModelSpec, facts: ModelFacts) -> frozenset[str] | None:
    folder = None if facts.folder is None else str(facts.folder)
    plain = {**spec.model_dump(mode="json"), "trust_remote_code": spec.trust_remote_code}
    asked = json.dumps({"spec": plain, "folder": folder})
    done = run("workers.model.loading", input=asked)
    if done.returncode:
        why = (done.stderr.splitlines() or ["no reason given"])[-1]
        if "trust_remote_code" in why:
            why = "it needs the Python code in its folder; if you trust it: --trust-remote-code"
        _log.warning("the modules of %s cannot be listed before it is loaded: %s", spec.ref, why)
        return None
    return frozenset(json.loads(done.stdout))
