"""Inputs of a causal model as a network takes them: one-hot or random vectors, token ids, text.

Shapes: I inputs of the causal model, which are the tokens; E numbers each.
"""

__all__ = ["FORMS", "InputWriter", "Texts", "written_inputs"]

import random
import string
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from workers.causal.model import CausalModel
from workers.errors import StudyError, nearest
from workers.vocabulary import Vectors

FORMS = ("ids", "one_hot", "random", "text")
_STEPS = 24


class InputWriter(Protocol):
    """Writer of inputs as the columns of a pair."""

    def columns(self, run: str, inputs: Sequence[int]) -> dict[str, object]:
        """The columns of `run` (``base``, ``source`` …) for the values of the inputs."""


def written_inputs(model: CausalModel, form: str, width: int | None, texts: "Texts | None") -> InputWriter:
    """The form that a study asks for.

    Raises:
        StudyError: there is no such form, or it lacks what it needs.
    """
    if form not in FORMS:
        raise StudyError(f"form {form!r}; forms are {', '.join(FORMS)}{nearest(str(form), FORMS)}")
    if (form == "text") != (texts is not None):
        raise StudyError("the form text needs text, such as '{x} + {y} =', and the others have none")
    if (form == "random") != (width is not None):
        raise StudyError("the form random needs width, how many numbers a vector has; the others have none")
    if texts is not None:
        return texts
    if form == "ids":
        return _Ids(model)
    return _OneHot(model) if width is None else _Random(model, width)


class _Ids:
    """Token ids: the number of each value in its domain."""

    def __init__(self, model: CausalModel) -> None:
        self._ids = [{int(v): at for at, v in enumerate(model.domain(name))} for name in model.inputs]

    def columns(self, run: str, inputs: Sequence[int]) -> dict[str, object]:
        return {f"{run}_ids": [ids[value] for ids, value in zip(self._ids, inputs, strict=True)]}


class _OneHot:
    """A vector for each input, 1 at the number of its value in its domain, as wide as the largest domain."""

    def __init__(self, model: CausalModel) -> None:
        domains = [model.domain(name) for name in model.inputs]
        self.width = max(map(len, domains))
        self._rows = [
            {int(v): _packed([at == number for at in range(self.width)]) for number, v in enumerate(domain)}
            for domain in domains
        ]

    def columns(self, run: str, inputs: Sequence[int]) -> dict[str, object]:
        data = b"".join(rows[value] for rows, value in zip(self._rows, inputs, strict=True))
        return {f"{run}_embeds": Vectors((len(inputs), self.width), data)}


class _Random:
    """A vector for each value, uniform in [-1, 1): the same for every input, in every study."""

    def __init__(self, model: CausalModel, width: int) -> None:
        self.width = width
        values = sorted({int(value) for name in model.inputs for value in model.domain(name)})
        self._rows = {value: _packed(_drawn(value, width)) for value in values}

    def columns(self, run: str, inputs: Sequence[int]) -> dict[str, object]:
        data = b"".join(self._rows[value] for value in inputs)
        return {f"{run}_embeds": Vectors((len(inputs), self.width), data)}


class Texts:
    """A template with the inputs' names in braces, and words for values that are no numbers.

    Args:
        model: whose variables the templates name.
        text: the prompt, with every input in it once.
        answer: what continues it: the variables of the run that it is the answer of.
        words: for each variable that is written in words those of its domain, in order.

    Raises:
        StudyError: a template names what is no variable, or a domain and its words differ in number.
    """

    def __init__(
        self, model: CausalModel, text: str, answer: str, words: Mapping[str, Sequence[str]]
    ) -> None:
        self._model = model
        self._text = _pieces("text", text, model.inputs)
        self._answer = _pieces("answer", answer, model.variables)
        lacking = [name for name in model.inputs if [field for _, field in self._text].count(name) != 1]
        if lacking:
            raise StudyError(f"text {text!r} must have {{{lacking[0]}}} in it once, as every input")
        self._words = {name: self._listed(name, listed) for name, listed in words.items()}

    def columns(self, run: str, inputs: Sequence[int]) -> dict[str, object]:
        """The text, and a span for each input."""
        values = dict(zip(self._model.inputs, inputs, strict=True))
        prefix = "span." if run == "base" else f"{run}.span."
        text, spans = "", dict[str, object]()
        for literal, field in self._text:
            text += literal
            if field is not None:
                word = self._word(field, values[field])
                spans[f"{prefix}{field}"] = [len(text), len(text) + len(word)]
                text += word
        return {run: text, **spans}

    def answer(self, values: Mapping[str, int]) -> str:
        """The text that continues the prompt of a run with these values."""
        return "".join(
            literal + ("" if field is None else self._word(field, values[field]))
            for literal, field in self._answer
        )

    def _word(self, name: str, value: int) -> str:
        return self._words[name][value] if name in self._words else str(value)

    def _listed(self, name: str, words: object) -> dict[int, str]:
        domain = self._model.domain(name)
        listed = list(words) if isinstance(words, list | tuple) else []
        other = next((word for word in listed if not isinstance(word, str) or not word), None)
        if other is not None:
            raise StudyError(f"words of {name!r}: {other!r} is no text; write it in quotes")
        if len(listed) != len(domain):
            raise StudyError(f"words of {name!r}: {len(listed)} for {len(domain)} values; give one for each")
        return dict(zip(domain.tolist(), listed, strict=True))


def _pieces(key: str, template: object, names: Sequence[str]) -> list[tuple[str, str | None]]:
    """A template as text and the name after it, if any."""
    if not isinstance(template, str):
        raise StudyError(f"{key} {template!r}; give a text such as '{{x}} + {{y}} ='")
    try:
        found = list(string.Formatter().parse(template))
    except ValueError as error:
        raise StudyError(f"{key} {template!r} is no template: {error}") from None
    for _, field, spec, conversion in found:
        if field is not None and (field not in names or spec or conversion):
            raise StudyError(
                f"{key} {template!r} names {{{field}}}; it can name {', '.join(names)}{nearest(field, names)}"
            )
    return [(literal, field) for literal, field, _, _ in found]


def _packed(numbers: Iterable[float]) -> bytes:
    listed = list(map(float, numbers))
    return struct.pack(f"<{len(listed)}f", *listed)


def _drawn(value: int, width: int) -> list[float]:
    # Bits and not floats: what is drawn must not depend on how a machine rounds.
    draw = random.Random(f"value {value}")
    return [draw.getrandbits(_STEPS) / 2 ** (_STEPS - 1) - 1 for _ in range(width)]
