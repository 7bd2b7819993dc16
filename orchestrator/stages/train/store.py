"""Files of trainings in the study's folder. None is changed once it is there; only checkpoints go.

```
trainings/<identity>/attempt-<n>.json                 from which step the n-th attempt went on
                     curve-<from>-<to>.parquet        measurements from step <from> to step <to>
                     checkpoint-<step>.safetensors, .json    to go on from; two at most, none when it is done
                     failed-<n>.json                  why the n-th attempt ended
                     done.json                        its report, and what it left
artifacts/<sha256>.safetensors, .json                 a trained model and what it is made of
```

A training is done once its ``done.json`` is there, and has failed where its last attempt has. What is made
is the same whoever makes it, so no lock is needed.
"""

__all__ = ["Artifact", "Checkpoint", "TrainingFolder", "TrainingStatus"]

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.faults import reach
from orchestrator.store.storage import JsonObject, Storage
from workers.digests import digest_of
from workers.errors import StoreError
from workers.libraries.pyarrow import open_parquet, read_all

_FORMAT = 1
_Status = Literal["open", "running", "done", "failed"]
MOST_CHECKPOINTS = 2

_CHECKPOINT = re.compile(r".*/checkpoint-(\d+)\.json")
_CURVE = re.compile(r".*/curve-(\d+)-(\d+)\.parquet")
_ATTEMPT = re.compile(r".*/attempt-(\d+)\.json")

CURVE_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("epoch", pa.int64()),
        *((name, pa.string()) for name in ("split", "metric", "head", "variable")),
        ("error", pa.int64()),
        ("value", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Checkpoint of a training, with all that is needed to go on."""

    step: int
    tensors: bytes
    """A safetensors file."""
    about: JsonObject
    """All else, as plain data."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A trained model."""

    sha256: str
    weights: bytes
    """A safetensors file."""
    about: JsonObject
    """Study, training and model that it was made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStatus:
    """Progress of a training."""

    status: _Status
    attempts: Sequence[JsonObject]
    """In order: from which step, and who."""
    step: int
    """Of the last checkpoint, or of its end."""
    report: JsonObject
    """Report on its end; empty before."""


class TrainingFolder:
    """The trainings of the study that `storage` keeps."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def status(self, training: str) -> TrainingStatus:
        """Progress of a training.

        Raises:
            StoreError: what lies there cannot be read.
        """
        attempts = [self._json(name) or {} for name in self._attempts(training)]
        done, failed = self.done(training), self.failure(training)
        steps = self._checkpoints(training)
        report = done or failed or {}
        step = report.get("step", steps[-1] if steps else 0)
        status: _Status = "done" if done else "failed" if failed else "running" if attempts else "open"
        return TrainingStatus(status=status, attempts=attempts, step=step, report=report)

    def begin(self, training: str, about: JsonObject) -> int:
        """Note that an attempt begins; its number."""
        number = len(self._attempts(training))
        while not self._create_json(f"{_folder(training)}/attempt-{number}.json", about):
            number += 1
        return number

    def add_curve(self, training: str, first: int, last: int, rows: Sequence[JsonObject]) -> None:
        """Keep the measurements from step `first` to step `last`."""
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rows), CURVE_SCHEMA), sink, compression="zstd")
        self._storage.create(f"{_folder(training)}/curve-{first}-{last}.parquet", sink.getvalue())

    def curve(self, training: str) -> pa.Table:
        """Measurements so far, in order.

        Two attempts may have measured the same steps, with the same results: those of one are taken.

        Raises:
            StoreError: a file cannot be read.
        """
        tables = [CURVE_SCHEMA.empty_table()]
        seen = -1
        for _, last, name in sorted(self._curves(training)):
            data = self._storage.read(name)
            if last <= seen or data is None:
                continue
            try:
                table = read_all(open_parquet(io.BytesIO(data)))
            except (pa.ArrowException, OSError) as error:
                raise StoreError(f"{name} cannot be read ({error}); remove {_folder(training)}") from error
            tables.append(table.filter(pc.field("step") > seen))
            seen = last
        return pa.concat_tables(tables)

    def checkpoint(self, training: str) -> Checkpoint | None:
        """The last one that is whole; None where there is none."""
        for step in reversed(self._checkpoints(training)):
            about = self._json(f"{_checkpoint(training, step)}.json")
            tensors = self._storage.read(f"{_checkpoint(training, step)}.safetensors")
            if about is not None and tensors is not None and digest_of(tensors) == about["sha256"]:
                return Checkpoint(step, tensors, about["about"])
        return None

    def keep(self, training: str, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint, and drop all but the last ones."""
        name = _checkpoint(training, checkpoint.step)
        data = checkpoint.tensors
        if not self._storage.create(f"{name}.safetensors", data):
            data = self._storage.read(f"{name}.safetensors") or data
        reach("training.checkpoint")
        self._create_json(f"{name}.json", {"sha256": digest_of(data), "about": checkpoint.about})
        self._drop(training, self._checkpoints(training)[:-MOST_CHECKPOINTS])

    def finish(self, training: str, weights: bytes, about: JsonObject, report: JsonObject) -> JsonObject:
        """Keep what a training left, and that it is done; its checkpoints go."""
        sha256 = digest_of(weights)
        self._storage.create(f"artifacts/{sha256}.safetensors", weights)
        self._create_json(f"artifacts/{sha256}.json", about)
        reach("training.artifact")
        self._create_json(f"{_folder(training)}/done.json", {**report, "artifact": sha256})
        self._drop(training, self._checkpoints(training))
        done = self.done(training)
        assert done is not None, "what was just written"
        return done

    def fail(self, training: str, attempt: int, report: JsonObject) -> None:
        """Keep why an attempt ended."""
        self._create_json(f"{_folder(training)}/failed-{attempt}.json", report)

    def give_up(self, training: str, error_type: str, message: str) -> None:
        """Keep that no worker lived to say why the last attempt ended."""
        number = max(len(self._attempts(training)) - 1, 0)
        report = {"step": self.status(training).step, "error_type": error_type, "error_message": message}
        self.fail(training, number, report)

    def done(self, training: str) -> JsonObject | None:
        """The report of a training that is done; None before."""
        return self._json(f"{_folder(training)}/done.json")

    def failure(self, training: str) -> JsonObject | None:
        """Why the last attempt failed; None where it did not."""
        number = len(self._attempts(training)) - 1
        return None if number < 0 else self._json(f"{_folder(training)}/failed-{number}.json")

    def artifact(self, training: str) -> Artifact | None:
        """Trained model; None before the training is done.

        Raises:
            StoreError: it is damaged.
        """
        done = self.done(training)
        if done is None:
            return None
        name = f"artifacts/{done['artifact']}"
        weights, about = self._storage.read(f"{name}.safetensors"), self._json(f"{name}.json")
        if weights is None or about is None or digest_of(weights) != done["artifact"]:
            raise StoreError(
                f"{name}.safetensors is missing, or not what was written; remove {_folder(training)}, and the"
                " next run trains again"
            )
        return Artifact(done["artifact"], weights, about)

    def _drop(self, training: str, steps: Sequence[int]) -> None:
        for step in steps:
            # The one without which it is none goes first.
            self._storage.remove(f"{_checkpoint(training, step)}.json")
            self._storage.remove(f"{_checkpoint(training, step)}.safetensors")

    def _checkpoints(self, training: str) -> list[int]:
        """The steps of all, from the first."""
        return sorted(int(found[1]) for found in self._named(training, _CHECKPOINT))

    def _curves(self, training: str) -> list[tuple[int, int, str]]:
        return [(int(found[1]), int(found[2]), found[0]) for found in self._named(training, _CURVE)]

    def _attempts(self, training: str) -> list[str]:
        found = sorted((int(found[1]), found[0]) for found in self._named(training, _ATTEMPT))
        return [name for _, name in found]

    def _named(self, training: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        names = self._storage.list(_folder(training))
        return (found for name in names if (found := pattern.fullmatch(name)) is not None)

    def _create_json(self, name: str, data: JsonObject) -> bool:
        text = json.dumps({"format": _FORMAT, **data}, indent=1, ensure_ascii=False)
        return self._storage.create(name, text.encode())

    def _json(self, name: str) -> JsonObject | None:
        data = self._storage.read(name)
        if data is None:
            return None
        try:
            found: JsonObject = json.loads(data)
            version = found["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{name} cannot be used (it is no JSON of ours); remove its folder") from error
        if version != _FORMAT:
            raise StoreError(f"{name} has format {version}, and this version reads {_FORMAT}")
        return found


def _folder(training: str) -> str:
    return f"trainings/{training}"


def _checkpoint(training: str, step: int) -> str:
    return f"{_folder(training)}/checkpoint-{step}"
