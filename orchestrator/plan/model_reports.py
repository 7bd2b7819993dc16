"""Reports on a model by a child process that loads it, for a process that loads no torch.

One lists the paths of the model's modules (made without its weights), the other tries whether its named sites
hold what their names promise. Either takes seconds, so it is kept in the user's cache, named by the contents
of the model.
"""

__all__ = ["known_modules", "tried_identities"]

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from orchestrator.machine import memory_bytes
from workers.children import run
from workers.model.cache import cache_folder
from workers.model.facts import ModelFacts
from workers.model.families import family_of
from workers.model.site_identities import Identities, promised
from workers.vocabulary import ModelSpec

_log = logging.getLogger(__name__)

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MEMORY_SHARE = 0.7
"""Of the machine's memory, that the weights may take."""


def tried_identities(spec: ModelSpec, facts: ModelFacts, say: Callable[[str], None]) -> Identities:
    """Identities of sites as the loaded model has them, or, where it cannot be loaded, tables and the config.

    Args:
        spec: which model.
        facts: of it, and a table knows its family.
        say: gets a line where the model has to be loaded.
    """
    family = family_of(facts.model_type)
    if not promised(family):
        return Identities()
    path = _cached(spec, facts)
    with suppress(OSError, ValueError, KeyError, TypeError):
        return Identities.from_json(path.read_text())
    if facts.num_parameters * _BYTES[spec.dtype] > MEMORY_SHARE * memory_bytes():
        why = f"its {spec.dtype} weights do not fit into this machine's memory"
        return Identities.of(facts, family, untried=why)
    if facts.folder is not None:
        say(f"loading {spec.ref}, to try what its sites hold")
    done = run("workers.intervene.module_places", input=json.dumps(_plain(spec)))
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it was ended by the system"])[-1]
        return Identities.of(facts, family, untried=f"the model cannot be loaded here: {why}")
    # What code from the folder prints comes before.
    told = done.stdout.strip().splitlines()[-1]
    found = Identities.from_json(told)
    if not found.untried:
        _keep(path, told)
    return found


def _cached(spec: ModelSpec, facts: ModelFacts) -> Path:
    """Path of the kept report: other libraries, or another version of this one, may find something else."""
    versions = "-".join(version(library) for library in ("swapyard", "transformers", "torch"))
    return cache_folder() / "identities" / f"{facts.revision}-{spec.dtype}-{versions}.json"


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
        _keep(path, json.dumps(sorted(found)))
    return found


def _asked(spec: ModelSpec, facts: ModelFacts) -> frozenset[str] | None:
    folder = None if facts.folder is None else str(facts.folder)
    asked = json.dumps({"spec": _plain(spec), "folder": folder})
    done = run("workers.model.loading", input=asked)
    if done.returncode:
        why = (done.stderr.splitlines() or ["no reason given"])[-1]
        if "trust_remote_code" in why:
            why = "it needs the Python code in its folder; if you trust it: --trust-remote-code"
        _log.warning("the modules of %s cannot be listed before it is loaded: %s", spec.ref, why)
        return None
    return frozenset(json.loads(done.stdout))


def _plain(spec: ModelSpec) -> dict[str, object]:
    """The spec as a child gets it, with the trust that no file holds."""
    return {**spec.model_dump(mode="json"), "trust_remote_code": spec.trust_remote_code}


def _keep(path: Path, report: str) -> None:
    """Write a report into the cache; one that cannot be kept only costs time."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(report)
