"""What a training draws: each batch and each choice from a counter, so that there is no state to keep.

Shapes: N examples.
"""

__all__ = ["chosen", "order"]

import bisect
import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def order(seed: int, stream: str, epoch: int, num: int) -> NDArray[np.intp]:
    """The numbers below N in the order of an epoch."""
    return np.argsort(_bits(seed, stream, epoch, num), kind="stable")


def chosen(seed: int, stream: str, step: int, weights: Sequence[float]) -> int:
    """The number of one of the weights: each is as likely as it is heavy."""
    ends = list(itertools.accumulate(weights))
    at = float(_bits(seed, stream, step, 1)[0] >> np.uint64(11)) * 2.0**-53 * ends[-1]
    return min(bisect.bisect_right(ends, at), len(ends) - 1)


def _bits(seed: int, stream: str, counter: int, num: int) -> NDArray[np.uint64]:
    """Bits and not numpy's own orders and choices: those may change with its version."""
    key = hashlib.sha256(f"{seed}/{stream}/{counter}".encode()).digest()
    return np.random.PCG64(int.from_bytes(key[:16], "big")).random_raw(num)
