"""References of models: the name in a study resolved to a folder and the model's facts. No torch here.

A reference is a built-in model (``zoo:NAME``, made from the spec's options), an alias, a local folder or a
hub id, tried in this order (``artifact:NAME`` is not there yet). What lies on this machine is taken before
the network is asked, so that a resumed study meets the model it began with.
"""

__all__ = ["ALIASES", "Alias", "find", "has_weights", "resolve"]

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workers.errors import ModelError, NotYetError, nearest
from workers.libraries.huggingface_hub import commit_of
from workers.model.cache import content_hash, models_folder
from workers.model.config_checks import check_config
from workers.model.config_facts import facts_of_config
from workers.model.facts import ModelFacts
from workers.model.fetch import SOURCES, Say, is_fetched
from workers.model.fetch import fetch as make
from workers.model.pinned import check_pinned
from workers.model.weight_checks import check_weights
from workers.model.weight_files import INDEXES, shards_of
from workers.zoo.configs import config_of, is_zoo, zoo_name

if TYPE_CHECKING:
    from workers.vocabulary import ModelSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alias:
    """A short name for a model."""

    about: str
    hub: str | None
    """The hub id; None for a model that `workers.model.fetch` makes."""


ALIASES: Mapping[str, Alias] = {
    "smollm2-135m": Alias("SmolLM2-135M-Instruct, from the Python package index", None),
    **{
        f"pythia-{size}": Alias(f"Pythia {size.upper()}, from the hub", f"EleutherAI/pythia-{size}")
        for size in ("14m", "70m", "160m", "410m")
    },
}
"""Short names for models; every hub id and every folder works without one."""

_NOT_YET = {"artifact": "models that a fit left (artifact:NAME)"}

_ONLY_PICKLED = (
    "has its weights only in pickled files (pytorch_model.bin), which are not opened, for they can run any"
    ' code; save them as safetensors, if you trust where they come from: python -c "from transformers import'
    " AutoModelForCausalLM as M; M.from_pretrained('FOLDER').save_pretrained('NEW')\", with the tokeniser's"
    " files beside them, and name the new folder"
)

_MOST_BYTES = 32 * 1024**2
"""Of a JSON file: its values take many times as much in memory."""

_MOST_SHOWN = 60

_HUB_FILES = (".json", ".txt", ".model", ".jinja", ".py")


def resolve(spec: "ModelSpec", *, fetch: bool = True, say: Say = _log.info) -> ModelFacts:
    """Find the model that `spec` names and read its shape from ``config.json``, or from its options.

    With `fetch` a model that is not on this machine is fetched, weights and all, and `say` gets lines of
    progress; without it the network is never asked. A folder without weights is good enough for planning.

    Raises:
        ModelError: the model cannot be found, fetched or read, its options are wrong, or it is not at the
            pinned revision.
        NotYetError: the reference is ``artifact:``.
    """
    if is_zoo(spec.ref):
        return _zoo_facts(spec)
    if spec.options:
        raise ModelError(
            f"model {spec.ref!r} takes no options, only built-in ones (zoo:NAME) do; leave out"
            f" {', '.join(spec.options)}"
        )
    folder, repo = _locate(spec.ref)
    if repo is not None:
        folder = _hub_folder(spec.ref, repo, spec.revision, fetch, say)
        _check(spec, folder)
        return _facts(spec, folder, revision=commit_of(folder))
    if spec.ref in SOURCES and not is_fetched(spec.ref):
        folder = _fetch_alias(spec.ref, fetch, say)
    assert folder is not None
    if spec.ref in SOURCES:
        # What is pinned byte by byte needs no other check.
        return _facts(spec, folder, revision=_pinned_revision(spec, folder))
    _check(spec, _existing(folder))
    revision = content_hash(folder)
    if spec.revision is not None and not revision.startswith(spec.revision):
        raise ModelError(
            f"model {spec.ref!r}: the study pins revision {spec.revision}, but the files in {folder} "
            f"hash to {revision[:12]}…; correct or leave out the revision, or restore the files"
        )
    return _facts(spec, folder, revision=revision)


def find(ref: str) -> Path | None:
    """The folder on this machine with the model's weights, or None. Never asks the network."""
    if is_zoo(ref):
        return None
    folder, repo = _locate(ref)
    if repo is not None:
        folder = _cached_snapshot(repo, None)
    return folder if folder is not None and folder.is_dir() and has_weights(folder) else None


def has_weights(folder: Path) -> bool:
    """Whether all files of weights are in `folder`: one file, or every shard that the index names."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return True
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = shards_of(index)
            return bool(shards) and all((folder / shard).is_file() for shard in shards)
    return False


def _locate(ref: str) -> tuple[Path | None, str | None]:
    """The local folder or the hub id that `ref` means: one of the two is None."""
    scheme = ref.partition(":")[0]
    if scheme in _NOT_YET and ":" in ref:
        raise NotYetError(f"model {ref!r}: {_NOT_YET[scheme]} are not there yet; use a folder or a hub id")
    if ref in SOURCES:
        return models_folder() / ref, None
    if ref in ALIASES:
        return None, ALIASES[ref].hub
    try:
        folder = Path(ref).expanduser()
        is_folder = folder.is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        # Longer than a name may be, with NUL in it, or of a user whom nobody knows.
        shown = ref if len(ref) <= _MOST_SHOWN else f"{ref[:_MOST_SHOWN]}…"
        raise ModelError(
            f"model {shown!r} is no alias ({', '.join(ALIASES)}), no hub id and no folder that there can be"
            f" ({getattr(error, 'strerror', None) or error}); check the spelling"
        ) from error
    if is_folder or ref.startswith((".", "/", "~")):
        return folder.absolute(), None
    return None, ref


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise ModelError(f"model folder {folder} does not exist; check the path")
    return folder


def _fetch_alias(name: str, allowed: bool, say: Say) -> Path:
    if not allowed:
        raise ModelError(f"model {name!r} is not on this machine; get it with 'swapyard models fetch {name}'")
    return make(name, say=say)


def _pinned_revision(spec: "ModelSpec", folder: Path) -> str:
    """The revision of a fetched model: the pinned one, whichever releases of the libraries wrote its files.

    A study that pins the hash of the files, as one planned by an older version may, goes on under it.
    """
    pin = SOURCES[spec.ref].pin
    if wrong := check_pinned(folder, pin):
        raise ModelError(
            f"model {spec.ref!r}: what lies in {folder} is not the pinned model: {'; '.join(wrong)}; it was"
            " changed, damaged, or made by releases of the libraries that make another one (see SOURCE.md in"
            f" it); run 'swapyard models clear {spec.ref}' and 'swapyard models fetch {spec.ref}'"
        )
    for revision in (pin.revision, content_hash(folder)):
        if revision.startswith(spec.revision or ""):
            return revision
    raise ModelError(
        f"model {spec.ref!r}: the study pins revision {spec.revision}, but this model's is"
        f" {pin.revision[:12]}…; correct or leave out the revision"
    )


def _zoo_facts(spec: "ModelSpec") -> ModelFacts:
    facts = config_of(zoo_name(spec.ref), spec.options).facts(dtype=spec.dtype)
    if spec.revision is not None and not facts.revision.startswith(spec.revision):
        raise ModelError(
            f"model {spec.ref!r}: the study pins revision {spec.revision}, but its options hash to "
            f"{facts.revision[:12]}…; correct or leave out the revision, or restore the options"
        )
    return facts


# The hub


def _hub_folder(ref: str, repo: str, revision: str | None, fetch: bool, say: Say) -> Path:
    """The snapshot's folder in the cache of the hub's client; downloaded where it is not complete."""
    folder = _cached_snapshot(repo, revision)
    if folder is not None and (not fetch or has_weights(folder)):
        return folder
    if not fetch:
        raise ModelError(
            f"model {ref!r} is not on this machine{nearest(ref, ALIASES)}; "
            f"get it with 'swapyard models fetch {ref}', or give a local folder"
        )
    return _download(ref, repo, revision, say)


def _cached_snapshot(repo: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(repo, "config.json", revision=revision)
    except HFValidationError as error:
        raise ModelError(
            f"model {repo!r} is no alias ({', '.join(ALIASES)}), no folder and no hub id"
            f"{nearest(repo, ALIASES)}; check the spelling"
        ) from error
    return Path(config).parent if isinstance(config, str) else None


def _download(ref: str, repo: str, revision: str | None, say: Say) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        siblings = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=20).siblings or []
        sizes = {file.rfilename: file.size or 0 for file in siblings}
        if _is_pickled(name for name in sizes if "/" not in name):
            raise ModelError(f"{ref}: {repo} on the hub {_ONLY_PICKLED}")
        wanted = _wanted(sizes)
        say(f"{ref}: fetching {sum(sizes[name] for name in wanted) / 1e6:.0f} MB from the hub ({repo})")
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except ModelError:
        raise
    except Exception as error:  # The hub's client raises errors of several libraries without a common base.
        raise ModelError(_hub_failure(ref, repo, revision, error)) from error


def _wanted(names: Iterable[str]) -> list[str]:
    """The files to download: settings, tokeniser, and the weights as safetensors."""
    top = sorted(name for name in names if "/" not in name)
    small = [name for name in top if name.endswith(_HUB_FILES)]
    return small + [name for name in top if name.startswith("model") and name.endswith(".safetensors")]


def _is_pickled(names: Iterable[str]) -> bool:
    """Whether these files of a model hold weights, and none that can be read without running code."""
    ends = {name.rpartition(".")[2] for name in names if name.startswith(("model", "pytorch_model"))}
    return "bin" in ends and "safetensors" not in ends


def _hub_failure(ref: str, repo: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

    named = f"model {ref!r}"
    if isinstance(error, RevisionNotFoundError):
        return f"{named}: the hub has no revision {revision!r} of {repo}; give a branch, tag or commit of it"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{named}: the hub shows no model {repo!r}{nearest(ref, ALIASES)}; check the spelling, or log in "
            "with 'hf auth login' where the model is private or must be asked for"
        )
    why = "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else type(error).__name__
    return (
        f"{named} is not on this machine and the hub cannot be reached ({why}){nearest(ref, ALIASES)}; "
        f"give a local folder, run 'swapyard models fetch {ref}' where the hub can be reached and "
        "HF_HUB_OFFLINE is unset, or use smollm2-135m, which needs only the Python package index"
    )


# The shape


def _check(spec: "ModelSpec", folder: Path) -> None:
    """Refuse a folder that no model here can be loaded from, as far as its config and its headers tell.

    Raises:
        ModelError: naming the folder, the file, the key or the tensor, and what to do.
    """
    if _is_pickled(path.name for path in folder.iterdir()):
        raise ModelError(f"{spec.ref}: {folder} {_ONLY_PICKLED}")
    for index in INDEXES:
        if (folder / index).is_file():
            shards_of(folder / index)
    config, may_lack = _read_config(folder), spec.missing_weights is not None
    has_own_code = spec.trust_remote_code and "auto_map" in config
    where = str(folder / "config.json")
    check_config(config, where, spec.ref, has_own_code=has_own_code, may_lack=may_lack)
    check_weights(folder, config, spec.ref, may_lack=may_lack)


def _facts(spec: "ModelSpec", folder: Path, *, revision: str) -> ModelFacts:
    file = folder / "config.json"
    return facts_of_config(
        _read_config(folder), str(file), ref=spec.ref, revision=revision, dtype=spec.dtype, folder=folder
    )


def _read_config(folder: Path) -> dict[str, object]:
    file = folder / "config.json"
    if not file.is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(
                f"model folder {folder} has an adapter (adapter_config.json), not a model; merge it into"
                " its model"
                " (merge_and_unload) and save that"
            )
        raise ModelError(
            f"model folder {folder} has no config.json; give a folder that a transformers model was saved to "
            "(save_pretrained)"
        )
    return _read_json(file)


def _read_json(file: Path) -> dict[str, object]:
    try:
        if (size := file.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes, and no more than {_MOST_BYTES:,} are read")
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {file}: {error}; fetch or save the model again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds no JSON object; fetch or save the model again")
    return content
