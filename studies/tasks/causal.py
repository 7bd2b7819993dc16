"""Pairs from a causal model: inputs drawn, and what it says of each after the interchange of a variable."""

__all__ = ["BUNDLED_MODELS", "CAUSAL", "Causal", "model_name"]

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from workers.code.places import NO_CODE, Code
from workers.errors import StudyError

if TYPE_CHECKING:
    from workers.causal.model import CausalModel

CAUSAL = "causal"
"""The task of a causal model of one's own."""
BUNDLED_MODELS = ("digit_sum", "hierarchical_equality", "two_digit_addition", "boolean_circuit")
"""The tasks that are named as the bundled causal model that they are of."""

_OWN = ("variables", "output", "num_sources", "balance", "differ", "test_share", "split_seed")
_WRITING = ("form", "width", "text", "answer", "words")
_COUNTS = ("num_train", "num_test")


class Causal:
    """Bases and sources of a causal model, with a label for each variable: the output after its interchange.

    Args:
        name: of the task; that of a bundled causal model, whose options the task then has, or ``causal``,
            whose option ``model`` is ``module:name``, or a mapping with ``ref`` and the model's options.
        code: where such a model lies.
    """

    filter = "none"
    aligned = False
    is_endless = True

    def __init__(self, name: str, code: Code = NO_CODE) -> None:
        self.name = name
        self._code = code

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options: the model's own, and those that every causal task has."""
        return (*self._own, *_OWN, *_WRITING, *_COUNTS)

    def candidates(self, *, seed: int, options: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
        """See `PairTask.candidates`: pairs without a repetition, base and sources always of one split.

        Raises:
            StudyError: an option has an impossible value, or there are too few pairs.
        """
        # numpy is needed here only, and reading a study must stay quick.
        from studies.tasks.counterfactuals import Counterfactuals

        try:
            yield from Counterfactuals(self.model(options), seed, options).rows()
        except StudyError as error:
            said = str(error)
            where = next((at for at in self._code.lines.values() if said.startswith(f"{at}: ")), None)
            if where is not None:
                raise type(error)(said) from None
            raise type(error)(f"task {self.name}: {said}") from None

    @cached_property
    def _own(self) -> tuple[str, ...]:
        from workers.causal.named import option_names

        return ("model",) if self.name == CAUSAL else option_names(self.name)

    def model(self, options: Mapping[str, object]) -> "CausalModel":
        """The causal model.

        Raises:
            StudyError: there is none, or it has no such option.
        """
        from workers.causal.named import causal_model

        given = {key: value for key, value in options.items() if key in self._own}
        if self.name != CAUSAL:
            return causal_model(self.name, given)
        ref = given.get("model")
        own = dict(ref) if isinstance(ref, Mapping) else {"ref": ref}
        name = own.pop("ref", None)
        if not isinstance(name, str):
            raise StudyError(
                f"model {ref!r}; give module:name, or a mapping with ref and the model's options"
            )
        return causal_model(name, own, self._code)


def model_name(options: Mapping[str, object]) -> str | None:
    """The name of the causal model that the options of a task name; None where they name none."""
    ref = options.get("model")
    name = ref.get("ref") if isinstance(ref, Mapping) else ref
    return name if isinstance(name, str) else None
