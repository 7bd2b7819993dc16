"""Causal models drawn at random, and inputs of them, for property tests."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.causal.model import CausalModel


def mechanism(weights: tuple[int, ...], modulus: int) -> Callable[..., Any]:
    def weighed(*parents: NDArray[np.int64]) -> Any:
        return sum(weight * parent for weight, parent in zip(weights, parents, strict=True)) % modulus

    return weighed


@st.composite
def models(draw: st.DrawFn) -> CausalModel:
    """One to four inputs, one to five others, of which each has up to three of those before it as parents."""
    inputs = {f"i{n}": range(draw(st.integers(1, 4))) for n in range(draw(st.integers(1, 4)))}
    names = list(inputs)
    mechanisms = {}
    for number in range(draw(st.integers(1, 5))):
        parents = tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)))
        weights = tuple(draw(st.integers(-3, 3)) for _ in parents)
        mechanisms[f"v{number}"] = (parents, mechanism(weights, draw(st.integers(1, 6))))
        names.append(f"v{number}")
    return CausalModel(inputs, mechanisms)


def some_inputs(model: CausalModel, num: int, seed: int) -> NDArray[np.int64]:
    """[num, I]."""
    draw = np.random.default_rng(seed)
    return np.stack([draw.choice(model.domain(name), num) for name in model.inputs], -1)
