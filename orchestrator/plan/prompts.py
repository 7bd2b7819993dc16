"""The check of every prompt and label: each given pair as a model would be given it, or why it cannot be.

Whatever is wrong with a pair is the reason of that pair alone. What no model could make use of (half a
character, a text without a token), what this one has no place for (a token without an embedding, more tokens
than positions, a label that the head does not have) and what would be run in silence as something else (words
that become the unknown token, a bare number that names a token, two labels that are one) is found here, and
nowhere else.
"""

__all__ = ["Encoder", "Input"]

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.plan.pair_columns import Row
from studies.language.blocks import is_source
from studies.pairs.tokens import Encoding, TokenError, Tokenizer, span_tokens
from workers.model.facts import ModelFacts
from workers.vocabulary import Prompt, Span, Vectors


@dataclass(slots=True)
class Input:
    """One given pair under one model."""

    given: int
    tokens: dict[str, Prompt] = field(default_factory=dict)
    spans: dict[str, dict[str, Span]] = field(default_factory=dict)
    label_ids: tuple[int, ...] = ()
    base_label_ids: tuple[int, ...] = ()
    source_label_ids: tuple[int, ...] = ()
    reason: str | None = None
    """Why the pair is not kept; None for one that is."""
    fault: str | None = None
    """Subject of the reason, in a word or two: the base's, or another run's, prompt, label or answer."""


class Encoder:
    """Turns given pairs into inputs; each text is tokenised once.

    Args:
        facts: of the model.
        tokenizer: None where prompts are token ids or vectors, and labels are numbers.
        first: whether the first token of a label of several stands for it.
        labels_differ: whether a pair is of no use whose label is its base label.
    """

    def __init__(
        self, facts: ModelFacts, tokenizer: Tokenizer | None, *, first: bool, labels_differ: bool
    ) -> None:
        self._facts = facts
        self._tokenizer = tokenizer
        self._first = first
        self._labels_differ = labels_differ
        self.num_long = 0
        """Prompts longer than the model was trained for, where it can run them."""
        self._encodings: dict[str, Encoding | TokenError] = {}
        self._labels: dict[tuple[str, str], tuple[int, ...] | TokenError] = {}

    def encode(self, number: int, row: Row) -> Input:
        """One pair; what is wrong with it becomes its reason."""
        made = Input(given=number)
        fault = None
        try:
            for run in _runs_of(row):
                fault = "base" if run == "base" else "source"
                made.tokens[run], made.spans[run] = self._encode_run(row, run)
            fault = "base_label"
            made.base_label_ids = self._label_ids(row, "base", "base_label")
            fault = "source_label"
            if "source" in made.tokens:
                made.source_label_ids = self._label_ids(row, "source", "source_label")
            fault = "label"
            made.label_ids = self._label_ids(row, "base", "label")
            fault = "same"
            self._check_apart(made, row)
        except TokenError as error:
            column = "label" if fault == "same" else fault
            made.reason, made.fault = f"{column}: {error}", fault
        return made

    def _encode_run(self, row: Row, run: str) -> tuple[Prompt, dict[str, Span]]:
        if (vectors := row.get(f"{run}_embeds")) is not None:
            assert isinstance(vectors, Vectors)
            return self._placed(self._fitting(vectors)), {}
        if (ids := row.get(f"{run}_ids")) is not None:
            return self._placed(self._checked(ids)), {}
        text = row[run]
        encoding = self._encoded(text)
        prefix = "span." if run == "base" else f"{run}.span."
        spans = {
            name.removeprefix(prefix): span_tokens(text, encoding.offsets, _span(value))
            for name, value in row.items()
            if name.startswith(prefix) and value is not None
        }
        return self._placed(encoding.ids), spans

    def _encoded(self, text: str) -> Encoding:
        """A text's tokens, all of which the model has an embedding of."""
        known = self._encodings.get(text)
        if known is None:
            known = self._encodings[text] = self._tried(text)
        if isinstance(known, TokenError):
            raise known
        return known

    def _tried(self, text: str) -> Encoding | TokenError:
        try:
            return self._tokenised(text)
        except TokenError as error:
            return error

    def _tokenised(self, text: str) -> Encoding:
        tokenizer, name = self._tokenizer, self._facts.ref
        if tokenizer is None:
            raise TokenError(f"{text!r} is text, and {name} has no tokenizer; give base_ids or base_embeds …")
        if not text:
            raise TokenError("the prompt is empty; give text, of at least one token")
        encoding = tokenizer.encode(text)
        if not encoding.ids:
            raise TokenError(f"{text!r} has no token; give a longer prompt")
        if lost := tokenizer.lost(text, encoding):
            raise TokenError(f"{lost}; write what its vocabulary has, or take another model")
        self._check_known(encoding.ids, tokenizer)
        return encoding

    def _check_known(self, ids: Sequence[int], tokenizer: Tokenizer) -> None:
        """Whether the model has an embedding of each of a text's tokens."""
        size = self._facts.vocab_size
        beyond = next((token for token in ids if size is not None and token >= size), None)
        if beyond is not None:
            (word,) = tokenizer.token_text([beyond])
            raise TokenError(
                f"{word!r} is token {beyond}, and {self._facts.ref} has embeddings 0 to {(size or 0) - 1},"
                f" fewer than its tokenizer.json has tokens ({tokenizer.size}); give this model's tokenizer"
            )

    def _checked(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Token ids that the model knows."""
        size, name = self._facts.vocab_size, self._facts.ref
        if size is None:
            raise TokenError(f"token ids, and {name} has no vocabulary; give vectors (base_embeds …)")
        if not ids:
            raise TokenError("the prompt is empty; give at least one token id")
        if max(ids) >= size:
            raise TokenError(f"token id {max(ids)}: {name} has ids 0 to {size - 1}")
        return tuple(ids)

    def _fitting(self, vectors: Vectors) -> Vectors:
        """Vectors as wide as the model takes them, as far as that is known."""
        (_, given), width = vectors.shape, self._facts.input_width
        if width is not None and given != width:
            raise TokenError(f"vectors of {given} numbers: {self._facts.ref} takes {width} for each token")
        return vectors

    def _placed(self, prompt: Prompt) -> Prompt:
        """A prompt that the model has positions for."""
        most = self._facts.max_positions
        if most is not None and len(prompt) > most:
            if self._facts.has_position_table:
                raise TokenError(
                    f"a prompt of {len(prompt):,} tokens, and {self._facts.ref} has {most:,} positions; give"
                    " a shorter one"
                )
            self.num_long += 1
        return prompt

    def _label_ids(self, row: Row, run: str, column: str) -> tuple[int, ...]:
        """The numbers of a label, which stands after the prompt of `run`."""
        label, prompt = row.get(column), row.get(run)
        found: dict[int, None] = {}
        for item in label if isinstance(label, list | tuple) else () if label is None else (label,):
            if isinstance(item, int):
                found[self._answer(item, prompt)] = None
            elif prompt is None or self._tokenizer is None:
                what = "the number of a class" if self._facts.num_classes else "a token id"
                raise TokenError(f"{item!r} is text, but its prompt is none; give {what}")
            else:
                found |= dict.fromkeys(self._one_label(self._tokenizer, prompt, item))
        return tuple(found)

    def _answer(self, number: int, prompt: str | None) -> int:
        """A label that is a number: a class, or a token where the prompt is token ids or vectors too."""
        what = "classes" if self._facts.num_classes else "token ids"
        if prompt is not None and self._tokenizer is not None and not self._facts.num_classes:
            meant = ""
            if number < self._tokenizer.size:
                meant = f" ({self._tokenizer.token_text([number])[0]!r})"
            raise TokenError(
                f"the bare number {number} would be token id {number}{meant}, and the prompt is text; write"
                f' what is meant in quotes, such as "{number}" or " {number}"'
            )
        if number >= self._facts.num_logits:
            last = self._facts.num_logits - 1
            raise TokenError(f"{number} is no answer; {self._facts.ref} predicts {what} 0 to {last}")
        return number

    def _one_label(self, tokenizer: Tokenizer, prompt: str, label: str) -> tuple[int, ...]:
        key = (prompt, label)
        if key not in self._labels:
            self._labels[key] = self._read_label(tokenizer, key)
        known = self._labels[key]
        if isinstance(known, TokenError):
            raise known
        return known

    def _read_label(self, tokenizer: Tokenizer, key: tuple[str, str]) -> tuple[int, ...] | TokenError:
        (found,) = tokenizer.label_ids_all([key], first=self._first)
        if isinstance(found, TokenError) or max(found) < self._facts.num_logits:
            return found
        return TokenError(
            f"the label {key[1]!r} is token {max(found)}, and {self._facts.ref} predicts tokens 0 to"
            f" {self._facts.num_logits - 1}, fewer than its tokenizer.json has ({tokenizer.size}); give the"
            " tokenizer of this model"
        )

    def _check_apart(self, made: Input, row: Row) -> None:
        """Whether a change of the answer could show: the label and the base label are two.

        Raises:
            TokenError: they are one.
        """
        if not self._labels_differ or set(made.label_ids) != set(made.base_label_ids):
            return
        # A base that is its own source is a control, whose answer is to stay.
        if not made.label_ids or set(made.tokens.values()) == {made.tokens["base"]}:
            return
        label, base_label = row["label"], row["base_label"]
        same = f"{label!r}" if label == base_label else f"{label!r} and {base_label!r} are one token, which"
        raise TokenError(
            f"{same} is the base_label too: no intervention could show a change; give the answer that the"
            " source would have"
        )


def _runs_of(row: Row) -> list[str]:
    """The runs that a given pair has: ``base``, and its sources in order."""
    given = (name for name, value in row.items() if value is not None)
    names = {name.removesuffix("_ids").removesuffix("_embeds") for name in given}
    return ["base", *sorted((name for name in names if is_source(name)), key=lambda name: (len(name), name))]


def _span(value: str | Sequence[int]) -> str | Span:
    return value if isinstance(value, str) else (value[0], value[1])
