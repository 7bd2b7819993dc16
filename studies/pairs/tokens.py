"""Tokens of prompts, labels and spans, by the model's own tokeniser. No torch, no transformers here.

What concerns one pair (a label of two tokens, a span that is not there) is a `TokenError`, whose text is
the pair's reason; what concerns the whole model is a `ModelError`.
"""

__all__ = ["LONGEST_TEXT", "Encoding", "TokenError", "Tokenizer", "span_tokens"]

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import tokenizers

from workers.errors import ModelError, StudyError
from workers.libraries.tokenizers import LibraryFailedError, calling_library, raw_bytes, unknown_id

LONGEST_TEXT = 1_000_000
"""Characters; a model's context is shorter by far."""

_SURROGATE = re.compile("[\ud800-\udfff]")

_ANCHOR = "x"
"""Decoded before a token, so that decoders keep the blank with which the token begins."""


class TokenError(StudyError):
    """One pair's text cannot be turned into the tokens that were asked for; the text says why."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """A prompt as tokens."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    """Characters ``[start, end)`` that each token stands for; ``(0, 0)`` for special tokens added."""


class Tokenizer:
    """The tokeniser in a model's folder. Prompts begin as the tokeniser begins them (BOS, once) and end
    open: an end token that the tokeniser would add is left off, for a prompt is text to go on from."""

    def __init__(self, backend: tokenizers.Tokenizer, opening: tuple[int, ...]) -> None:
        self._backend = backend
        self._opening = opening

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Load ``tokenizer.json`` from a model's folder.

        Raises:
            ModelError: there is none, or it cannot be read.
        """
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ModelError(
                f"{folder} has no tokenizer.json; save it there once with "
                "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
        try:
            with calling_library():
                backend = tokenizers.Tokenizer.from_file(str(file))
                backend.no_truncation()
                backend.no_padding()
                return cls(backend, _opening(backend))
        except LibraryFailedError as error:
            raise ModelError(f"cannot read {file}: {error}; fetch or save the model again") from error

    def encode(self, text: str) -> Encoding:
        """`text` as a prompt: its tokens, after the special ones with which every prompt begins.

        Raises:
            TokenError: the tokeniser cannot take it, or it is too long to be looked at.
        """
        ids, offsets = self._encode(text)
        if ids[: len(self._opening)] == self._opening:  # None to add, or the text spells them out.
            return Encoding(ids, offsets)
        return Encoding(self._opening + ids, ((0, 0),) * len(self._opening) + offsets)

    def lost(self, text: str, encoding: Encoding) -> str | None:
        """The part of `text` that its `encoding` keeps from the model, in words; None where it is told all.

        That is words that became the tokeniser's token for the unknown, and letters and digits that no token
        stands for: other texts would give the same prompt. A text may spell the unknown token itself.
        """
        unknown, own = self._unknown, encoding.offsets
        word = None if unknown is None else self._backend.id_to_token(unknown)
        for token, (start, end) in zip(encoding.ids, own, strict=True):
            if token == unknown and start < end and text[start:end].strip() != word:
                return f"{_end_of(text[start:end])} becomes {word}, the tokeniser's token for what it lacks"
        covered = bytearray(len(text))
        for start, end in own:
            covered[start:end] = b"\1" * (end - start)
        gone = [character for character, has in zip(text, covered, strict=True) if not has]
        is_less = any(character.isalnum() for character in gone)
        # Which they are, the offsets do not say: of a word that is not whole they begin with its first piece.
        told = f"letters or digits of {_end_of(text)} become no token: the tokeniser leaves them out"
        return told if is_less else None

    @property
    def size(self) -> int:
        """One more than the largest token id."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def label_ids(self, prompt: str, label: str, *, first: bool = False) -> tuple[int, ...]:
        """The token that `label` becomes when it follows `prompt`; with `first` only its first token.

        Where the label changes the prompt's own last tokens (a prompt that ends in a blank), the model
        could never continue so; then the label's tokens on its own are taken, if they spell it exactly.

        Raises:
            TokenError: the label is empty, has no tokens of its own, or has several without `first`.
        """
        return self._continuation(self.encode(prompt).ids, prompt, label, first)

    def label_ids_all(
        self, pairs: Iterable[tuple[str, str]], *, first: bool = False
    ) -> list[tuple[int, ...] | TokenError]:
        """`label_ids` for each (prompt, label); an error is returned in its place, not raised."""
        prompts: dict[str, tuple[int, ...]] = {}
        found: list[tuple[int, ...] | TokenError] = []
        for prompt, label in pairs:
            if prompt not in prompts:
                prompts[prompt] = self.encode(prompt).ids
            try:
                found.append(self._continuation(prompts[prompt], prompt, label, first))
            except TokenError as error:
                found.append(error)
        return found

    def token_text(self, ids: Iterable[int]) -> list[str]:
        """Readable text of each id, with the blank it begins with.

        A token that is only part of a character is its bytes, such as ``\\xe2\\x82``; an id that the
        tokeniser does not know (models pad their vocabularies) is ``<id 50000>``.
        """
        return [self._text_of(token) for token in ids]

    def vocabulary(self) -> list[str]:
        """Readable text of every id from 0, as `token_text` gives it."""
        return self.token_text(range(self.size))

    def _continuation(
        self, prompt_ids: tuple[int, ...], prompt: str, label: str, first: bool
    ) -> tuple[int, ...]:
        if not label:
            raise TokenError(f"the label after {_end_of(prompt)} is empty; give text that continues it")
        encoding = self.encode(prompt + label)
        joined = encoding.ids
        in_context = joined[: len(prompt_ids)] == prompt_ids
        added = joined[len(prompt_ids) :] if in_context else self._alone(prompt, label)
        if lost := self.lost(prompt + label, encoding):
            raise TokenError(f"the label {label!r} after {_end_of(prompt)}: {lost}; give another label")
        if not added:
            raise TokenError(f"the label {label!r} adds no token to {_end_of(prompt)}; give a longer one")
        if len(added) > 1 and not first:
            pieces = ", ".join(repr(text) for text in self.token_text(added))
            changed = "" if in_context else " taken alone, as it changes the prompt's own last tokens"
            raise TokenError(
                f"the label {label!r} after {_end_of(prompt)} is {len(added)} tokens ({pieces}){changed}; "
                "give a label of one token, or set 'label_tokens: first'"
            )
        return added[:1] if first else added

    def _alone(self, prompt: str, label: str) -> tuple[int, ...]:
        """The label's tokens without the prompt before it, where these spell the label and no more."""
        ids, _ = self._encode(label)
        if "".join(self.token_text(ids)) == label:
            return ids
        raise TokenError(
            f"the label {label!r} changes the last tokens of {_end_of(prompt)} itself, and has no tokens of "
            "its own; move the blank between them from the prompt's end to the label's start"
        )

    def _encode(self, text: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """Token ids and offsets, nothing added."""
        if len(text) > LONGEST_TEXT:
            raise TokenError(f"a text of {len(text):,} characters; give one of at most {LONGEST_TEXT:,}")
        if (bad := _SURROGATE.search(text)) is not None:
            raise TokenError(
                f"{_end_of(text)} has {bad[0]!a}, half of a character, which no text can have; write it whole"
            )
        try:
            with calling_library():
                encoded = self._backend.encode(text, add_special_tokens=False)
        except LibraryFailedError as error:
            raise TokenError(f"{_end_of(text)} cannot be tokenised: {error}") from error
        return tuple(encoded.ids), tuple(encoded.offsets)

    @cached_property
    def _unknown(self) -> int | None:
        """The token of what the vocabulary lacks; None where it lacks nothing."""
        return unknown_id(self._backend)

    def _text_of(self, token: int) -> str:
        if token in self._added:
            return self._added[token]
        raw = self._backend.id_to_token(token)
        if raw is None:
            return f"<id {token}>"
        decoder = self._backend.decoder
        text = raw if decoder is None else decoder.decode([_ANCHOR, raw]).removeprefix(_ANCHOR)
        return _escaped(raw) if "\N{REPLACEMENT CHARACTER}" in text else text

    @cached_property
    def _added(self) -> dict[int, str]:
        return {token: added.content for token, added in self._backend.get_added_tokens_decoder().items()}


def span_tokens(
    text: str, offsets: Sequence[tuple[int, int]], span: str | tuple[int, int]
) -> tuple[int, int]:
    """The tokens ``[lo, hi)`` that cover `span`: a substring of `text`, or characters ``[start, end)``.

    A token that is covered partly counts. `offsets` are those of `Encoding`, for `text`.

    Raises:
        TokenError: the substring does not occur exactly once, the characters are not in the text, or no
            token stands for them.
    """
    start, end = _substring(text, span) if isinstance(span, str) else span
    if not 0 <= start < end <= len(text):
        raise TokenError(
            f"the span [{start}, {end}) is not in {_end_of(text)}, which has {len(text)} characters; "
            "give 0 <= start < end <= length"
        )
    covering = [i for i, (lo, hi) in enumerate(offsets) if lo < end and hi > start]
    if not covering:
        raise TokenError(f"no token stands for {text[start:end]!r} in {_end_of(text)}; choose a longer span")
    return covering[0], covering[-1] + 1


def _substring(text: str, part: str) -> tuple[int, int]:
    starts = [i for i in range(len(text)) if text.startswith(part, i)] if part else []
    if len(starts) != 1:
        raise TokenError(
            f"the span {part!r} occurs {len(starts)} times in {_end_of(text)}; it must occur once: "
            "give a longer substring, or its characters as [start, end]"
        )
    return starts[0], starts[0] + len(part)


def _end_of(text: str, limit: int = 48) -> str:
    """`text` as an error shows it: its end, for prompts are long."""
    return repr(text if len(text) <= limit else "…" + text[-limit:])


def _opening(backend: tokenizers.Tokenizer) -> tuple[int, ...]:
    """The special tokens that every prompt begins with.

    As in the transformers library, tokenizer.json alone decides: ``add_bos_token`` in
    tokenizer_config.json is for folders without one.
    """
    encoded = backend.encode(_ANCHOR)
    text_starts = next(
        (i for i, special in enumerate(encoded.special_tokens_mask) if not special), len(encoded.ids)
    )
    return tuple(encoded.ids[:text_starts])


def _escaped(raw: str) -> str:
    """The bytes of a token that is no whole text, as text where they are and as ``\\xNN`` elsewhere."""
    found = raw_bytes(raw)
    return raw if found is None else found.decode("utf-8", "backslashreplace")
