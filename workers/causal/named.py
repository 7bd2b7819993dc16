"""Causal models by name: the bundled ones (sums of digits, hierarchical equality, addition with carry,
circuits), and ``module:name`` in a user's own file or in an installed package."""

__all__ = [
    "BUNDLED",
    "boolean_circuit",
    "causal_model",
    "digit_sum",
    "hierarchical_equality",
    "option_names",
    "two_digit_addition",
]

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from workers.causal.model import CausalModel, Mechanism
from workers.code.function_kinds import MODEL
from workers.code.named import named
from workers.code.places import NO_CODE, Code
from workers.errors import StudyError, article, nearest
from workers.vocabulary import is_function


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


_GATES: Mapping[str, Callable[..., object]] = MappingProxyType(
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


def _check_count(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise StudyError(f"{name} {value!r}; give a whole number from {least}")


BUNDLED: Mapping[str, Callable[..., CausalModel]] = MappingProxyType(
    {made.__name__: made for made in (digit_sum, hierarchical_equality, two_digit_addition, boolean_circuit)}
)
"""The bundled causal models by name."""


def causal_model(name: str, options: Mapping[str, object] | None = None, code: Code = NO_CODE) -> CausalModel:
    """The causal model `name`, made with its options.

    Args:
        name: a bundled one, or ``module:name``; what it names is a `CausalModel`, or a function that makes
            one.
        options: what the function is called with.
        code: where the functions of the study lie.

    Raises:
        StudyError: there is none, an option is unknown, or what is named fails or is something else.
    """
    found, given = _find(name, code), dict(options or {})
    if isinstance(found, CausalModel):
        if given:
            raise StudyError(
                f"{code.at(name)}the causal model {name!r} has no options, and is given {', '.join(given)}"
            )
        return found
    known = tuple(inspect.signature(found).parameters)
    for option in given:
        if option not in known:
            raise StudyError(
                f"{code.at(name)}the causal model {name!r} has no option {option!r}; it has"
                f" {', '.join(known) or 'none'}{nearest(option, known)}"
            )
    try:
        inspect.signature(found).bind(**given)
    except TypeError as error:
        raise StudyError(
            f"{code.at(name)}the causal model {name!r}: {error}; give it beside ref, among {', '.join(known)}"
        ) from None
    try:
        made = found(**given)
    except StudyError as error:
        raise StudyError(f"{code.at(name)}the causal model {name!r}: {error}") from None
    except Exception as error:
        raise StudyError(
            f"{code.at(name)}the causal model {name!r} raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, CausalModel):
        raise StudyError(
            f"{code.at(name)}the causal model {name!r} returned {article(type(made).__name__)};"
            " return a CausalModel"
        )
    return made


def option_names(name: str) -> tuple[str, ...]:
    """The options of the causal model `name`."""
    found = _find(name, NO_CODE)
    return () if isinstance(found, CausalModel) else tuple(inspect.signature(found).parameters)


def _find(name: str, code: Code) -> CausalModel | Callable[..., object]:
    if name in BUNDLED:
        return BUNDLED[name]
    if not is_function(name):
        raise StudyError(
            f"there is no causal model {name!r}; there are {', '.join(BUNDLED)}, and your own as module:name"
            f"{nearest(name, BUNDLED)}"
        )
    found = named(name, MODEL, code)
    if isinstance(found, CausalModel):
        return found
    if not callable(found):
        raise StudyError(
            f"{code.at(name)}causal model {name!r}: it is {article(type(found).__name__)};"
            f" wanted: {MODEL.wanted}"
        )
    made: Callable[..., object] = found
    return made
