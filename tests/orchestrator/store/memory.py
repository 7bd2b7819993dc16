"""A storage with no disk: what an object store would be, and one whose answers get lost."""

import threading

from orchestrator.store.storage import Storage, check_name
from workers.errors import StoreError


class MemoryStorage:
    """Bytes by name in this process's memory."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def create(self, name: str, data: bytes) -> bool:
        check_name(name)
        with self._lock:
            made = name not in self._held
            self._held.setdefault(name, data)
            return made

    def put_fresh(self, name: str, data: bytes) -> None:
        if not self.create(name, data):
            raise StoreError(f"{name} cannot be written: file exists")

    def read(self, name: str) -> bytes | None:
        check_name(name)
        return self._held.get(name)

    def list(self, folder: str) -> list[str]:
        check_name(folder)
        return sorted(name for name in self._held if name.startswith(f"{folder}/"))

    def remove(self, name: str) -> None:
        check_name(name)
        self._held.pop(name, None)

    def exists(self, name: str) -> bool:
        return self.read(name) is not None


class LosesAnswers:
    """Another storage over a bad line: the first answers to `create` are as bad as `how` says.

    ``raises after``: it was done, and an error came. ``raises before``: it was not done, and an error came.
    ``no``: it was done by this very call, and the answer is that something was there.
    """

    def __init__(self, storage: Storage, how: str, num_answers: int = 1) -> None:
        self._storage = storage
        self._how = how
        self._num_left = num_answers
        self.read = storage.read
        self.list = storage.list
        self.put_fresh = storage.put_fresh
        self.remove = storage.remove
        self.exists = storage.exists

    def create(self, name: str, data: bytes) -> bool:
        if self._num_left == 0:
            return self._storage.create(name, data)
        self._num_left -= 1
        if self._how != "raises before":
            self._storage.create(name, data)
        if self._how == "no":
            return False
        raise StoreError(f"{name} cannot be written: timed out")
