"""Sparse autoencoders that a study names: their files, and their part in identities of fits and plans.

Of a file that is read as every version read it these are the bytes alone. How any other one is read is in
there as well, so that no study goes on with features that an earlier version read otherwise.
"""

__all__ = ["Weights", "weights_at", "weights_of"]

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from studies import Study
from workers.autoencoders.weights import WeightsFile, files_beside, read_weights, weights_path
from workers.errors import StudyError


@dataclass(frozen=True, slots=True)
class Weights:
    """The file of a fit that is read from one, and how it is read."""

    file: WeightsFile
    is_centered: bool
    """Whether the decoder's bias is taken off before encoding, as the study, the file or its config says."""
    is_said: bool
    """Whether the study says just that."""

    def completed(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """A fit's spec with the file, its bytes, and how it is read."""
        made = {key: value for key, value in spec.items() if key not in ("path", "centered")}
        made |= {"path": str(self.file.path), "sha256": self.file.sha256}
        if self.is_centered:
            made["centered"] = True
        if self.file.kind is not None:
            made["kind"] = self.file.kind.to_json()
        return made

    def to_json(self) -> Any:
        """Content of a plan's digest: the bytes, and whatever neither they nor the study say."""
        if self.file.kind is None and self.is_said:
            return self.file.sha256
        kind = None if self.file.kind is None else self.file.kind.to_json()
        return {"sha256": self.file.sha256, "kind": kind, "centered": self.is_centered}


def weights_of(study: Study) -> dict[str, Weights]:
    """The file of each fit that is read from one.

    Raises:
        StudyError: the file is not there, or holds no sparse autoencoder that is known.
    """
    found: dict[str, Weights] = {}
    for name, fit in (study.fits or {}).items():
        if fit.path is not None:
            try:
                file = weights_at(weights_path(_whole(fit.path)))
                is_centered = file.is_centered(fit.centered)
            except StudyError as error:
                raise StudyError(f"fits.{name}: {error}") from None
            found[name] = Weights(file, is_centered, is_said=is_centered == bool(fit.centered))
    return found


def _whole(path: str) -> Path:
    return Path(path).expanduser().resolve()


def weights_at(path: Path) -> WeightsFile:
    """The file of a sparse autoencoder, which is read again only where it or what lies beside it is new.

    Raises:
        StudyError: it is not there, or holds no sparse autoencoder that is known.
    """
    stamps = [(one, one.stat()) for one in (path, *files_beside(path)) if one.is_file()]
    return _weights_of(path, tuple((one, stat.st_size, stat.st_mtime_ns) for one, stat in stamps))


@cache
def _weights_of(path: Path, stamps: tuple[tuple[Path, int, int], ...]) -> WeightsFile:
    return read_weights(path)
