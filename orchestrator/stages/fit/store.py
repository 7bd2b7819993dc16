"""Files of fits: ``fits/<identity>.safetensors`` and ``.json`` in the study's folder, never changed.

A fit is there once its ``.json`` is. Whoever needs one that is not there makes it, and writes it if nobody
else has by then; so no lock is needed, and what was made is made once.
"""

__all__ = ["FitFolder", "StoredFit"]

import json
from dataclasses import dataclass

from orchestrator.store.storage import JsonObject, Storage
from workers.digests import digest_of
from workers.errors import StoreError

_FORMAT = 2
_READABLE = (1, _FORMAT)
"""In format 1 rotations are as torch called them; `workers.fits.fitted` reads both."""


@dataclass(frozen=True, slots=True)
class StoredFit:
    """A fit as it lies in the folder."""

    tensors: bytes
    """A safetensors file."""
    about: JsonObject
    """All else, as plain data."""


class FitFolder:
    """The fits of the study that `storage` keeps."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def about(self, fit: str) -> JsonObject | None:
        """Report of a fit; None where it is not made yet.

        Raises:
            StoreError: it cannot be read, or another version wrote it in another form.
        """
        data = self._storage.read(_about_name(fit))
        if data is None:
            return None
        try:
            found = json.loads(data)
            version = found["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(_about_name(fit), "it is no JSON of ours") from error
        if version not in _READABLE:
            known = " and ".join(map(str, _READABLE))
            raise _damaged(_about_name(fit), f"it has format {version}, and this version reads {known}")
        return dict(found)

    def read(self, fit: str) -> StoredFit | None:
        """A fit; None where it is not made yet.

        Raises:
            StoreError: it is damaged.
        """
        about = self.about(fit)
        if about is None:
            return None
        tensors = self._storage.read(_tensors_name(fit))
        if tensors is None or digest_of(tensors) != about["sha256"]:
            raise _damaged(_tensors_name(fit), "it is missing, or not what was written")
        return StoredFit(tensors, about)

    def write(self, fit: str, tensors: bytes, about: JsonObject) -> StoredFit:
        """Keep a fit, durably; what lies there from then on: this one, or that of somebody who was first.

        Raises:
            StorageFullError, StoreError: it could not be written.
        """
        name = _tensors_name(fit)
        if not self._storage.create(name, tensors):
            tensors = self._storage.read(name) or tensors
        whole = {"format": _FORMAT, "fit": fit, "sha256": digest_of(tensors), **about}
        self._storage.create(_about_name(fit), json.dumps(whole, indent=1, ensure_ascii=False).encode())
        found = self.read(fit)
        assert found is not None, "what was just written"
        return found


def _tensors_name(fit: str) -> str:
    return f"fits/{fit}.safetensors"


def _about_name(fit: str) -> str:
    return f"fits/{fit}.json"


def _damaged(name: str, why: str) -> StoreError:
    return StoreError(
        f"{name} cannot be used ({why}); remove it and its twin, and the next run makes it again"
    )
