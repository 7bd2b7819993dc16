"""The causal models that are there: sums of digits, hierarchical equality, addition with carry, circuits."""

__all__ = ["BUNDLED", "boolean_circuit", "digit_sum", "hierarchical_equality", "two_digit_addition"]

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from workers.causal.model import CausalModel, Mechanism
from workers.errors import StudyError, nearest


def digit_sum(digits: int = 3, values: int = 10) -> CausalModel:
    """A sum that is added up from the left, of digits with `values` values each.

    Three: S = x + y and O = S + z. Four: S1 = w + x, S2 = S1 + C1 and O = S2 + z, where C1 is y, carried
    along beside S1; O and S2 are both outputs.

    Raises:
        StudyError: neither three nor four digits, or fewer than two values.
    """
    _check_count("values", values, least=2)
    domain = range(values)
    if digits == 3:
        return CausalModel(
            inputs={"x": domain, "y": domain, "z": domain},
            mechanisms={"S": lambda x, y: x + y, "O": lambda S, z: S + z},  # noqa: N803
        )
    if digits != 4:
        raise StudyError(f"digit_sum of {digits!r} digits; there are sums of 3 and of 4")
    return CausalModel(
        inputs={"w": domain, "x": domain, "y": domain, "z": domain},
        mechanisms={
            "S1": lambda w, x: w + x,
            "C1": lambda y: y,
            "S2": (("S1", "C1"), np.add),
            "O": (("S2", "z"), np.add),
        },
        outputs=("O", "S2"),
    )


def hierarchical_equality(values: int = 100) -> CausalModel:
    """O says whether a = b and c = d agree: WX and YZ say whether either pair is equal.

    After Geiger et al. 2023 (arXiv 2303.02536), with the inputs w, x, y, z.

    Raises:
        StudyError: fewer than two values.
    """
    _check_count("values", values, least=2)
    return CausalModel(
        inputs=dict.fromkeys("wxyz", range(values)),
        mechanisms={
            "WX": (("w", "x"), np.equal),
            "YZ": (("y", "z"), np.equal),
            "O": (("WX", "YZ"), np.equal),
        },
    )


def two_digit_addition() -> CausalModel:
    """a1 a0 + b1 b0 in decimals: the ones, the carry from them, and the tens; O is the sum, 0 to 198."""
    return CausalModel(
        inputs=dict.fromkeys(("a1", "a0", "b1", "b0"), range(10)),
        mechanisms={
            "ones": lambda a0, b0: (a0 + b0) % 10,
            "carry": lambda a0, b0: (a0 + b0) // 10,
            "tens": lambda a1, b1, carry: a1 + b1 + carry,
            "O": lambda tens, ones: 10 * tens + ones,
        },
    )


_GATES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "and": lambda *bits: np.logical_and.reduce(bits),
        "or": lambda *bits: np.logical_or.reduce(bits),
        "xor": lambda *bits: np.logical_xor.reduce(bits),
        "not": lambda bit: 1 - bit,
    }
)

_AND_OF_ORS = MappingProxyType({"p": ("or", "a", "b"), "q": ("or", "c", "d"), "O": ("and", "p", "q")})


def boolean_circuit(
    inputs: Sequence[str] = ("a", "b", "c", "d"), gates: Mapping[str, Sequence[str]] = _AND_OF_ORS
) -> CausalModel:
    """A circuit of bits. Without arguments O = (a or b) and (c or d).

    Args:
        inputs: the names of the input bits.
        gates: for each variable its gate (``and``, ``or``, ``xor`` or ``not``) and the gate's inputs.

    Raises:
        StudyError: an unknown gate, or one with the wrong number of inputs.
    """
    mechanisms: dict[str, Mechanism] = {}
    for name, (gate, *parents) in gates.items():
        if gate not in _GATES:
            raise StudyError(
                f"{name!r} is a gate {gate!r}; gates are {', '.join(_GATES)}{nearest(str(gate), _GATES)}"
            )
        if (gate == "not") != (len(parents) == 1):
            raise StudyError(f"{name!r}: {gate!r} of {len(parents)}; 'not' has one input, the others more")
        mechanisms[name] = (tuple(parents), _GATES[gate])
    return CausalModel(inputs=dict.fromkeys(inputs, (0, 1)), mechanisms=mechanisms)


def _check_count(name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise StudyError(f"{name} {value!r}; give a whole number from {least}")


BUNDLED: Mapping[str, Callable[..., CausalModel]] = MappingProxyType(
    {made.__name__: made for made in (digit_sum, hierarchical_equality, two_digit_addition, boolean_circuit)}
)
"""The bundled causal models by name."""
