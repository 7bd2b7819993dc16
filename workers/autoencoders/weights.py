"""Files of sparse autoencoders: their tensors, the computation of their features, and their identity.

A file is read by the config that lies beside it, where one does: SAELens' ``cfg.json``, ``config.json`` of
dictionary_learning; otherwise by its tensors alone. No torch here.
"""

__all__ = ["WeightsFile", "digest_of", "files_beside", "read_bare", "read_weights", "weights_path"]

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from workers.autoencoders.configs import Config, Reading, check_keys
from workers.autoencoders.dictionary_learning import check_threshold, read_dictionary_learning
from workers.autoencoders.files import tensor_facts
from workers.autoencoders.kinds import (
    FACTORS,
    PLAIN,
    ROLES,
    Activation,
    AutoencoderKind,
    Role,
    TensorFacts,
    Tensors,
    check_shapes,
    is_said_in_training,
    old_form,
    tensors_of,
)
from workers.autoencoders.sae_lens import read_sae_lens
from workers.errors import StudyError

_IN_FOLDERS = ("sae_weights.safetensors", "ae.pt", "ae.safetensors", "params.npz", "sae.safetensors")
"""Names of the file of tensors in an autoencoder's folder."""
_OWN_CONFIGS = ("{}_cfg.json", "{}.cfg.json", "{}_config.json", "{}.config.json", "{}.json")
"""Configs of one file, by its name without the suffix; where there is one, the folder's say nothing."""
_CONFIGS = ("cfg.json", "config.json", "hyperparams.json")
_CHECKPOINTS = "checkpoints"
"""The folder in which some keep the tensors, below that of the config."""
_SCALER = "activation_scaler.json"
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """A file that holds a sparse autoencoder."""

    path: Path
    sha256: str
    """Of its bytes, hex."""
    kind: AutoencoderKind | None
    """Computation of its features; None where it is read as it always was, by its names and `centered`."""
    tensors: Tensors
    centered: bool | None
    """Whether the decoder's bias is taken off before encoding; None where nothing says it."""
    centered_by: str
    """Source of that, for errors."""

    @property
    def width(self) -> int:
        """W, of the place."""
        return self.tensors.width

    @property
    def num_features(self) -> int:
        """K."""
        return self.tensors.num_features

    def is_centered(self, wanted: bool | None) -> bool:
        """Whether the decoder's bias is taken off, where a study says `wanted`, or nothing.

        Raises:
            StudyError: the study and the file say two things, or neither says what it has to.
        """
        if self.centered is None:
            if wanted is None and self.kind is not None and self.kind.activation == "gated":
                raise StudyError(
                    f"{self.path} does not say whether the decoder's bias is taken off before encoding, as"
                    " the paper on gated ones does; write centered: true or false, or put its config there"
                )
            return bool(wanted)
        if wanted not in (None, self.centered):
            raise StudyError(
                f"centered: {str(wanted).lower()} contradicts {self.centered_by}; leave 'centered' out"
            )
        return self.centered


def weights_path(path: Path) -> Path:
    """The file of tensors that a path means: itself, or the one in its folder.

    Raises:
        StudyError: the folder has none, or several.
    """
    if not path.is_dir():
        return path
    found = [path / name for name in _IN_FOLDERS if (path / name).is_file()]
    if len(found) != 1:
        there = " and ".join(one.name for one in found) or "none of them"
        raise StudyError(f"{path} is a folder with {there}; it has to hold one of {', '.join(_IN_FOLDERS)}")
    return found[0]


def files_beside(path: Path) -> list[Path]:
    """The files beside weights that may say how they are read, those that are there."""
    own = [path.parent / name.format(path.stem) for name in _OWN_CONFIGS]
    shared = [path.parent / name for name in _CONFIGS]
    if path.parent.name == _CHECKPOINTS:
        shared += [path.parent.parent / name for name in _CONFIGS]
    return [one for one in (*own, *shared, path.parent / _SCALER) if one.is_file() and one != path]


def read_weights(path: Path) -> WeightsFile:
    """Read what a file says of its autoencoder; of large tensors the numbers are hashed, not looked at.

    Args:
        path: of the file of tensors; see `weights_path`.

    Raises:
        StudyError: there is no such file, it holds no autoencoder, or one that is not known; naming the key.
    """
    try:
        facts = tensor_facts(path)
        config = _config_of(path, facts)
    except OSError as error:
        raise _unreadable(path, error) from None
    reading = read_bare(str(path), facts) if config is None else config
    return WeightsFile(
        path=path,
        sha256=digest_of(path),
        kind=_kind(reading, facts, is_bare=config is None),
        tensors=reading.tensors,
        centered=reading.centered,
        centered_by=reading.centered_by,
    )


def digest_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, hex.

    Raises:
        StudyError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise _unreadable(path, error) from None
    return digest.hexdigest()


def _unreadable(path: Path, error: OSError) -> StudyError:
    return StudyError(f"{path}: the weights cannot be read: {error.strerror}; correct the path")


def _kind(reading: Reading, facts: Mapping[str, TensorFacts], *, is_bare: bool) -> AutoencoderKind | None:
    """The kind; None where the features are those that names alone always gave."""
    kind, names = reading.kind, dict(reading.tensors.names)
    threshold = facts[names["threshold"]] if "threshold" in names else None
    if kind.activation == "batchtopk" and threshold and threshold.shape == (reading.tensors.num_features,):
        kind = replace(kind, activation="jumprelu")
    if not kind.is_finetuned:
        names.pop("factor", None)
    if names != old_form(facts):
        return kind
    if kind == PLAIN and (is_bare or threshold is None):
        return None
    # Both libraries take the ReLU as well: below 0 a threshold does nothing there.
    if kind == AutoencoderKind(activation="jumprelu") and threshold and threshold.least >= 0:
        return None
    return kind


def _config_of(path: Path, facts: Mapping[str, TensorFacts]) -> Reading | None:
    """Description by the config beside a file; None where there is none.

    Raises:
        StudyError: it cannot be followed, or there are two.
    """
    beside = [one for one in files_beside(path) if one.name != _SCALER]
    own = [one for one in beside if one.name not in _CONFIGS]
    found = [config for one in own or beside if (config := _read(one, path, facts)) is not None]
    if len(found) > 1:
        raise StudyError(
            f"{found[0].path} and {found[1].path} are both configs of {path.name}; keep one of them"
        )
    if not found:
        return None
    return _followed(found[0])


def _read(path: Path, weights: Path, facts: Mapping[str, TensorFacts]) -> Config | None:
    """A config; None where it is that of a transformer, which says nothing of an autoencoder."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except ValueError:
        raise StudyError(
            f"{path} beside {weights.name} is no JSON; correct it, or move one of the two"
        ) from None
    if not isinstance(data, dict):
        raise StudyError(
            f"{path} beside {weights.name} is no JSON object; correct it, or move one of the two"
        )
    if "model_type" in data and "d_sae" not in data:
        return None
    return Config(path=path, data=data, weights=weights, facts=facts)


def _followed(config: Config) -> Reading | None:
    data: Mapping[str, object] = config.data
    if any(key in data for key in ("trainer", "dict_class", "trainer_class")):
        return read_dictionary_learning(config)
    if any(key in data for key in ("architecture", "d_sae", "apply_b_dec_to_input", "activation_fn_str")):
        return read_sae_lens(config)
    # Of no library that is known: nothing of it may speak of the features.
    check_keys(f"{config.path} beside {config.weights.name}", data, used=(), unused=())
    return None


_GATED = ("r_mag", "b_gate", "b_mag", "gate_bias", "mag_bias")
_GATED_CENTERED = ("gate_bias", "mag_bias")
"""Of dictionary_learning, whose gated ones are always centred."""
_BIASES: tuple[Role, ...] = ("encoder_bias", "decoder_bias")


def read_bare(where: str, facts: Mapping[str, TensorFacts]) -> Reading:
    """Description of a file without a config, as far as the names of its tensors tell.

    One that could be of two kinds, or needs what only a config has, is refused; none is read as a plain ReLU
    for want of one.

    Raises:
        StudyError: it holds no autoencoder, or not enough to know which.
    """
    if any(name in facts for name in _GATED):
        tensors = tensors_of(where, facts, ROLES["gated"], what="a gated autoencoder")
        is_said = any(name in facts for name in _GATED_CENTERED)
        return Reading(
            kind=AutoencoderKind(activation="gated"),
            tensors=tensors,
            centered=True if is_said else None,
            centered_by=f"{_GATED_CENTERED[0]} in {where}",
        )
    if "k" in facts:
        return _matryoshka(where, facts)
    if "topk_threshold" in facts:
        raise _needs_config(where, "topk_threshold", "a BatchTopK of SAELens", "cfg.json")
    if "bias" in facts and "encoder.weight" in facts:
        return _dictionary(where, facts)
    if "log_threshold" in facts:
        return _of("jumprelu", where, facts, "a JumpReLU")
    if "b_dec" in facts and "encoder.weight" in facts:
        raise _needs_config(where, "b_dec beside encoder.weight", "a TopK or BatchTopK", "config.json")
    return _plain(where, facts)


def _plain(where: str, facts: Mapping[str, TensorFacts]) -> Reading:
    names = old_form(facts)
    if names is None:
        held = ", ".join(sorted(facts)[:8]) or "nothing"
        raise StudyError(
            f"{where} holds {held}; a sparse autoencoder is encoder.weight [features, width] and"
            " decoder.weight [width, features], or W_enc [width, features] and W_dec [features, width]"
        )
    if "threshold" in names and facts["threshold"].shape == ():
        raise _needs_config(where, "threshold, of no dimension,", "a BatchTopK", "config.json")
    for name in facts:
        # Early versions of SAELens wrote factors of 1 always.
        is_nothing = is_said_in_training(name) or (name in FACTORS and facts[name].is_ones)
        if name not in names.values() and not is_nothing:
            raise StudyError(
                f"{where} holds {name!r}, which this version does not know and the features may hang on;"
                " put the config of the autoencoder beside it, or save it without"
            )
    return Reading(kind=PLAIN, tensors=check_shapes(where, facts, names), centered=None)


def _of(activation: Activation, where: str, facts: Mapping[str, TensorFacts], what: str) -> Reading:
    roles = [role for role in ROLES[activation] if role not in _BIASES]
    tensors = tensors_of(where, facts, roles, what=what, optional=_BIASES)
    return Reading(kind=AutoencoderKind(activation=activation), tensors=tensors, centered=None)


def _dictionary(where: str, facts: Mapping[str, TensorFacts]) -> Reading:
    """The plain class of dictionary_learning, whose ``bias`` is taken off before encoding and added after."""
    tensors = tensors_of(where, facts, ROLES["relu"], what="an AutoEncoder of dictionary_learning")
    return Reading(kind=PLAIN, tensors=tensors, centered=True, centered_by=f"bias in {where}")


def _matryoshka(where: str, facts: Mapping[str, TensorFacts]) -> Reading:
    """Of the classes that store their ``k`` only this one has groups."""
    if "group_sizes" not in facts:
        raise _needs_config(where, "k", "a TopK or a BatchTopK", "config.json")
    beside = ("k", "group_sizes", "group_indices")
    tensors = tensors_of(
        where, facts, ROLES["batchtopk"], what="a Matryoshka BatchTopK", beside=beside, is_one_threshold=True
    )
    check_threshold(where, facts, tensors)
    return Reading(
        kind=AutoencoderKind(activation="batchtopk"),
        tensors=tensors,
        centered=True,
        centered_by=f"group_sizes in {where}",
    )


def _needs_config(where: str, tensor: str, what: str, config: str) -> StudyError:
    return StudyError(f"{where} holds {tensor} as {what} does, which needs its {config}; put that beside it")
