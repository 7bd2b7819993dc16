"""Pickles of tensors, as torch saves them; as a program it says what one holds, for a planner without torch.

Nothing but ``torch.load(weights_only=True)`` ever opens one: a pickle can hold code, and is not run here.
"""

__all__ = ["load_pickle", "pickle_facts"]

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from workers.autoencoders.kinds import TensorFacts
from workers.errors import StudyError, article


def load_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickle by name, in main memory; plain numbers become tensors of no dimension.

    Raises:
        StudyError: it is damaged, or holds more than tensors by name.
        OSError: it cannot be read.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever the bytes of a pickle may give rise to
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudyError(
            f"{path} cannot be read as a pickle of tensors alone (torch.load with weights_only): {why}"
        ) from None
    if not isinstance(found, Mapping) or not found:
        raise StudyError(
            f"{path} holds {article(type(found).__name__)}, and not tensors by name; save a state_dict"
        )
    return {str(name): _tensor(path, name, value) for name, value in found.items()}


def pickle_facts(path: Path) -> dict[str, TensorFacts]:
    """The tensors of a pickle, by name.

    Raises:
        StudyError, OSError: as `load_pickle`.
    """
    return {name: _facts(tensor) for name, tensor in load_pickle(path).items()}


def _facts(tensor: Tensor) -> TensorFacts:
    shape = tuple(tensor.shape)
    return TensorFacts(shape) if len(shape) > 1 else TensorFacts.of(shape, tensor.detach().double().numpy())


def _tensor(path: Path, name: object, value: object) -> Tensor:
    if isinstance(value, Tensor) and not value.is_sparse:
        return value
    if isinstance(value, int | float):
        return torch.tensor(value)
    kind = type(value).__name__
    hint = "; it is a training's checkpoint: give the final weights" if isinstance(value, Mapping) else ""
    raise StudyError(f"{path}: {name!r} is {article(kind)}, and not a tensor{hint}")


def _main(path: str) -> None:
    try:
        answer: object = {"tensors": {name: asdict(one) for name, one in pickle_facts(Path(path)).items()}}
    except (StudyError, OSError) as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main(sys.argv[1])
