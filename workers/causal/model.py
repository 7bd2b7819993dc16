"""A causal model: variables with their parents, mechanisms and domains, run on many inputs at once.

    model = CausalModel(
        inputs={"x": range(10), "y": range(10), "z": range(10)},
        mechanisms={"S": lambda x, y: x + y, "O": lambda S, z: S + z},
    )
    model.run([3, 6, 9])["O"]  # 18
    model.interchange([3, 6, 9], {"S": [4, 4, 4]})["O"]  # 17

Values are whole numbers. Shapes: ... any leading shape, the examples; I inputs.
"""

__all__ = ["MOST_ROWS", "CausalModel", "Inputs", "Mechanism", "Values"]

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workers.errors import StudyError, nearest

Values = Mapping[str, NDArray[np.int64]]
"""The value of each variable [...]."""

Inputs = ArrayLike | Mapping[str, ArrayLike]
"""Inputs of a model: an array [..., I] in the model's order, or each input's values [...] by name."""

Mechanism = Callable[..., object] | tuple[Sequence[str], Callable[..., object]]
"""A numpy function of the parents' values, arrays of one shape: its parameters are the parents' names. For a
function without such names, parents and function: ``(("x", "y"), np.add)``."""

MOST_ROWS = 2_000_000
"""Most combinations of values that are written out."""


class CausalModel:
    """Variables, and how each comes from its parents. The same values always give the same value.

    Args:
        inputs: the variables that have no parents, in order, each with its domain.
        mechanisms: how each of the others comes from its parents.
        outputs: what the model says; without it the variables that are nobody's parents. The first is the
            one that labels are about where nothing else is said.

    Raises:
        StudyError: a name that is not there or is no name, a cycle, or a domain that is empty.
    """

    def __init__(
        self,
        inputs: Mapping[str, Iterable[int]],
        mechanisms: Mapping[str, Mechanism],
        *,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self._given = {name: _domain(name, values) for name, values in inputs.items()}
        self.inputs = tuple(self._given)
        functions = {name: _read_mechanism(name, mechanism) for name, mechanism in mechanisms.items()}
        _check_names(self.inputs, functions)
        self.parents: Mapping[str, tuple[str, ...]] = MappingProxyType(
            {**dict.fromkeys(self.inputs, ()), **_in_order(self.inputs, functions)}
        )
        self._functions = {name: function for name, (_, function) in functions.items()}
        self.variables = tuple(self.parents)
        """All of them, each after its parents."""
        self.outputs = self._checked(self._leaves() if outputs is None else outputs)

    def run(self, inputs: Inputs, fixed: Mapping[str, ArrayLike] | None = None) -> Values:
        """The value of every variable.

        Args:
            inputs: an array [..., I] in the order of `inputs`, or each input's values [...] by name.
            fixed: variables that do not follow their mechanism, with the values that they have instead.

        Raises:
            StudyError: an input is missing or outside its domain, or a mechanism fails.
        """
        given = self.columns(inputs)
        shape = np.broadcast_shapes(*(values.shape for values in given.values()))
        held = {
            self._checked([name])[0]: np.asarray(values, np.int64) for name, values in (fixed or {}).items()
        }
        found: dict[str, NDArray[np.int64]] = {}
        for name in self.variables:
            if name in held:
                value = held[name]
            elif name in given:
                value = given[name]
            else:
                value = self.compute(name, *(found[parent] for parent in self.parents[name]))
            found[name] = np.broadcast_to(value, shape) if value.shape != shape else value
        return found

    def interchange(self, base: Inputs, sources: Mapping[str, Inputs]) -> Values:
        """The value of every variable in `base` after an interchange.

        Args:
            base: inputs, in a form that `run` takes.
            sources: for each variable that is changed the inputs that it has its value from: one source
                for several of them, or each its own.
        """
        if sources:
            self._checked(tuple(sources))
        runs: dict[int, Values] = {}
        for source in sources.values():
            if id(source) not in runs:
                runs[id(source)] = self.run(source)
        return self.run(base, {name: runs[id(source)][name] for name, source in sources.items()})

    def compute(self, name: str, *parents: NDArray[np.int64]) -> NDArray[np.int64]:
        """Value that the mechanism of `name` makes of its parents' values.

        Raises:
            StudyError: it fails, or what it returns is not as many whole numbers.
        """
        try:
            value = np.asarray(self._functions[name](*parents))
        except Exception as error:
            raise StudyError(
                f"the mechanism of {name!r} raised {type(error).__name__}: {error}; it gets numpy arrays of"
                f" whole numbers, {', '.join(self.parents[name])}, and returns one of their shape"
            ) from error
        shape = np.broadcast_shapes(*(parent.shape for parent in parents))
        is_whole = value.dtype.kind in "bui" or (value.dtype.kind == "f" and bool((value % 1 == 0).all()))
        if value.shape not in (shape, ()) or not is_whole:
            raise StudyError(
                f"the mechanism of {name!r} returned {value.dtype} {list(value.shape)} for values"
                f" {list(shape)}; return a whole number, or true or false, for each"
            )
        return np.broadcast_to(value, shape).astype(np.int64)

    def domain(self, name: str) -> NDArray[np.int64]:
        """The values that a variable may take, in order: an input's own, else what any of its parents' give.

        Raises:
            StudyError: the parents have too many combinations of values.
        """
        self._checked([name])
        return self._domains([name])[name]

    def ancestors(self, name: str) -> frozenset[str]:
        """The inputs that a variable depends on; of an input itself."""
        return self._ancestors[self._checked([name])[0]]

    def all_inputs(self, names: Sequence[str] | None = None) -> Values:
        """Every combination of the values of all inputs, or of the variables `names`, each once.

        Raises:
            StudyError: there are more than `MOST_ROWS`.
        """
        domains = self._domains(self.inputs if names is None else self._checked(names))
        num_rows = math.prod(len(values) for values in domains.values())
        if num_rows > MOST_ROWS:
            raise StudyError(
                f"{', '.join(domains)} have {num_rows:,} combinations of values; at most {MOST_ROWS:,} can be"
                " listed: draw some with a Sampler"
            )
        grid = np.meshgrid(*domains.values(), indexing="ij")
        return {name: values.ravel() for name, values in zip(domains, grid, strict=True)}

    def classes(
        self, variables: str | Sequence[str], inputs: Inputs | None = None
    ) -> Mapping[tuple[int, ...], NDArray[np.intp]]:
        """The inputs in classes: two are in one where `variables` have the same values in both.

        An interchange of `variables` does the same from any source of a class.

        Args:
            variables: a name, or several.
            inputs: [N, I], or N values by name; without them `all_inputs`.

        Returns:
            For each combination of values that occurs, in order, the indices of its inputs.
        """
        names = self._checked([variables] if isinstance(variables, str) else variables)
        ran = self.run(self.all_inputs() if inputs is None else inputs)
        values, members = np.unique(
            np.stack([ran[name].ravel() for name in names], -1), axis=0, return_inverse=True
        )
        order = np.argsort(members.ravel(), kind="stable")
        ends = np.cumsum(np.bincount(members.ravel()))[:-1]
        return dict(zip(map(tuple, values.tolist()), np.split(order, ends), strict=True))

    def _checked(self, names: Sequence[str]) -> tuple[str, ...]:
        for name in names:
            if name not in self.parents:
                raise StudyError(
                    f"there is no variable {name!r}; there are {', '.join(self.parents)}"
                    f"{nearest(str(name), self.parents)}"
                )
        if not names:
            raise StudyError(f"no variable is named; there are {', '.join(self.parents)}")
        return tuple(names)

    def _leaves(self) -> tuple[str, ...]:
        used = set(itertools.chain(*self.parents.values()))
        return tuple(name for name in self.variables if name not in used)

    def columns(self, inputs: Inputs) -> dict[str, NDArray[np.int64]]:
        """The values [...] of each input, checked; see `run`."""
        if isinstance(inputs, Mapping):
            missing = [name for name in self.inputs if name not in inputs]
            if missing:
                raise StudyError(f"the inputs lack {', '.join(missing)}; give {', '.join(self.inputs)}")
            columns = {name: np.asarray(inputs[name]) for name in self.inputs}
        else:
            array = np.asarray(inputs)
            if array.ndim == 0 or array.shape[-1] != len(self.inputs):
                raise StudyError(
                    f"inputs {list(array.shape)}; give [..., {len(self.inputs)}], one for each of"
                    f" {', '.join(self.inputs)}"
                )
            columns = {name: array[..., at] for at, name in enumerate(self.inputs)}
        return {name: self._allowed(name, values) for name, values in columns.items()}

    def _allowed(self, name: str, values: NDArray[Any]) -> NDArray[np.int64]:
        domain = self._given[name]
        first, last = domain[0], domain[-1]
        is_range = last - first + 1 == len(domain) and values.dtype.kind in "bui"
        is_one = (values >= first) & (values <= last) if is_range else np.isin(values, domain)
        if not is_one.all():
            wrong = values[~is_one].ravel()[0]
            raise StudyError(
                f"{name!r} is {wrong}; its values are {domain[0]} … {domain[-1]}, {len(domain)} of them"
            )
        return values.astype(np.int64)

    @cached_property
    def _ancestors(self) -> Mapping[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        for name, parents in self.parents.items():
            found[name] = frozenset().union(*(found[p] for p in parents)) if parents else frozenset((name,))
        return found

    def _domains(self, names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        for name in names:
            if name not in self._given:
                rows = self.all_inputs(self.parents[name])
                values = self.compute(name, *(rows[parent] for parent in self.parents[name]))
                self._given[name] = np.unique(values)
        return {name: self._given[name] for name in names}


def _domain(name: str, values: Iterable[int]) -> NDArray[np.int64]:
    if isinstance(values, Sized) and len(values) > MOST_ROWS:
        raise StudyError(
            f"the domain of {name!r} has {len(values):,} values; at most {MOST_ROWS:,} are allowed"
        )
    listed = np.asarray(list(values))
    if listed.ndim != 1 or not len(listed) or listed.dtype.kind not in "bui":
        raise StudyError(f"the domain of {name!r} is {values!r}; give whole numbers, such as range(10)")
    return np.unique(listed.astype(np.int64))


def _read_mechanism(name: str, mechanism: Mechanism) -> tuple[tuple[str, ...], Callable[..., object]]:
    """A mechanism's parents and its function."""
    if isinstance(mechanism, tuple) and len(mechanism) == 2 and callable(mechanism[1]):
        return tuple(mechanism[0]), mechanism[1]
    if not callable(mechanism) or isinstance(mechanism, np.ufunc):
        raise StudyError(
            f"the mechanism of {name!r} is {mechanism!r}; give a function whose parameters are its parents,"
            " or (parents, function)"
        )
    return tuple(inspect.signature(mechanism).parameters), mechanism


def _check_names(inputs: Sequence[str], functions: Mapping[str, tuple[tuple[str, ...], object]]) -> None:
    known = [*inputs, *functions]
    for name in known:
        if not isinstance(name, str) or not name.isidentifier():
            raise StudyError(
                f"a variable is called {name!r}; a name has letters, digits and _, no digit first"
            )
    twice = next((name for name in functions if name in inputs), None)
    if twice is not None:
        raise StudyError(f"{twice!r} is an input and has a mechanism; it is one of the two")
    if not inputs or not functions:
        raise StudyError("a causal model has inputs and mechanisms; give at least one of each")
    for name, (parents, _) in functions.items():
        unknown = next((parent for parent in parents if parent not in known), None)
        if unknown is not None or not parents:
            raise StudyError(
                f"{name!r} has the parents {', '.join(parents) or '(none)'}; its parents are some of"
                f" {', '.join(known)}{nearest(str(unknown), known)}"
            )


def _in_order(
    inputs: Sequence[str], functions: Mapping[str, tuple[tuple[str, ...], object]]
) -> dict[str, tuple[str, ...]]:
    """The parents of each variable, those that come first being listed first."""
    found: dict[str, tuple[str, ...]] = {}
    while len(found) < len(functions):
        ready = [
            name
            for name, (parents, _) in functions.items()
            if name not in found and all(parent in inputs or parent in found for parent in parents)
        ]
        if not ready:
            left = ", ".join(name for name in functions if name not in found)
            raise StudyError(f"{left} depend on each other in a circle; a variable cannot be its own cause")
        found[ready[0]] = functions[ready[0]][0]
    return found
