"""Inputs of a model: from the forms that users write to a module's arguments, and back from logits to tokens.

Shapes: B examples, T tokens (or time steps), padding included, V vocabulary.
"""

__all__ = [
    "Given",
    "Inputs",
    "TextTokenizer",
    "format_token",
    "inputs_of",
    "last_logits",
]

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from workers.errors import RunError
from workers.intervene.positions import PerExample, PositionForm, tokens_of
from workers.libraries.transformers import with_positions
from workers.model.weight_values import embedding_of

FORMS = (
    "a tensor, a dict of the model's inputs, a text or a list of texts (where there is a tokenizer), or a "
    "list of lists of token ids"
)


_FROM_MASK = frozenset({"bloom", "falcon", "mpt"})
"""Types without an argument for positions that need none: of ALiBi only distances count, or the mask does."""


Given = Tensor | Mapping[str, object] | str | Sequence[object]
"""A batch as users write it: `FORMS` lists the forms, and `inputs_of` refuses all others."""


class TextTokenizer(Protocol):
    """Methods that are used of a tokenizer of the transformers library."""

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Mapping[str, Sequence[int]]:
        """Encode a text: ``input_ids``, special tokens as the tokenizer has them."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Arguments of one call of a model, and the shape of its examples."""

    args: tuple[Tensor, ...]
    kwargs: Mapping[str, object]
    num_rows: int
    """B."""
    num_tokens: int | None
    """T; 1 where an example is one vector; None where the inputs do not say."""
    spans: tuple[tuple[int, int], ...]
    """Begin and end of each example's own tokens; empty where `num_tokens` is None."""

    @property
    def is_even(self) -> bool:
        """Whether every example's own tokens lie at the same place."""
        return len(set(self.spans)) <= 1

    def tokens(self, form: PositionForm, num_rows: int) -> list[tuple[int, ...] | None]:
        """Each example's positions, counted in its own tokens; see `workers.intervene.positions`.

        Args:
            form: which.
            num_rows: of the base; where there is one example here, it is that of every row.

        Raises:
            RunError: an example has no such position, or nothing says how many there are.
        """
        if self.num_rows not in (1, num_rows):
            raise RunError(f"{self.num_rows} examples for {num_rows} of the base; give as many, or one")
        repeats = num_rows // self.num_rows
        if self.num_tokens is not None:
            if self.spans and self.is_even and not isinstance(form, PerExample):
                return tokens_of(form, [self.spans[0][1] - self.spans[0][0]]) * num_rows
            return tokens_of(form, [end - start for start, end in self.spans] * repeats)
        numbers = (form,) if isinstance(form, int) else form
        if isinstance(numbers, tuple) and all(isinstance(n, int) and n >= 0 for n in numbers):
            return [tuple(numbers)] * num_rows
        raise RunError(
            f"position {form!r}: the inputs do not say how many positions there are; write indices from 0, "
            "or name coordinates"
        )

    def padded(self, row: int, tokens: Sequence[int]) -> tuple[int, ...]:
        """Positions of an example's own `tokens` among all, padding included; `row` is one of the base's."""
        start = self.spans[row % self.num_rows][0] if self.spans else 0
        return tuple(start + token for token in tokens)


def inputs_of(given: object, module: nn.Module, tokenizer: TextTokenizer | None) -> Inputs:
    """The call that `given` means, on the module's device.

    A tensor is the module's first argument, or its ``inputs_embeds`` where it holds floats and the module
    has an argument of that name; a dict holds arguments by name. Where an attention mask says that examples
    are padded at the left, each one's positions are counted from its first own token, as they are when it
    runs alone, unless the dict has ``position_ids``.

    Raises:
        RunError: it has none of the forms, its parts do not fit, it has a token id that the module lacks, or
            it is padded at the left and the module cannot be told positions.
    """
    found = _read(given, module, tokenizer)
    _check_ids(found, module)
    return _placed(found, module)


def _read(given: object, module: nn.Module, tokenizer: TextTokenizer | None) -> Inputs:
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list | tuple) and given and not isinstance(given[0], Tensor):
        given = _padded(_ids(given, tokenizer), tokenizer)
    device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), None)
    if isinstance(given, Tensor):
        names = inspect.signature(module.forward).parameters
        if given.is_floating_point() and "inputs_embeds" in names:
            return _inputs((), {"inputs_embeds": given.to(device)}, given)
        return _inputs((given.to(device),), {}, given)
    if not isinstance(given, Mapping):
        raise RunError(f"an input of type {type(given).__name__}; give {FORMS}")
    kwargs = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in given.items()}
    main = next((kwargs[n] for n in ("input_ids", "inputs_embeds") if kwargs.get(n) is not None), None)
    if main is None:
        main = next((value for value in kwargs.values() if isinstance(value, Tensor)), None)
    if not isinstance(main, Tensor) or main.dim() == 0:
        raise RunError(f"no tensor with a row for each example among {', '.join(kwargs) or 'no inputs'}")
    return _inputs((), kwargs, main)


def _inputs(args: tuple[Tensor, ...], kwargs: Mapping[str, object], main: Tensor) -> Inputs:
    num_tokens = _num_tokens(main)
    mask = kwargs.get("attention_mask")
    if num_tokens is None:
        return Inputs(args, kwargs, len(main), None, ())
    if not isinstance(mask, Tensor) or mask.shape != (len(main), num_tokens):
        return Inputs(args, kwargs, len(main), num_tokens, ((0, num_tokens),) * len(main))
    return Inputs(args, kwargs, len(main), num_tokens, tuple(_span(row) for row in mask.bool().tolist()))


def _check_ids(inputs: Inputs, module: nn.Module) -> None:
    """Refuse token ids that the module has no embedding of, as far as it says what it has.

    Raises:
        RunError: naming one of them and those that there are.
    """
    ids = inputs.kwargs.get("input_ids")
    first = next(iter(inspect.signature(module.forward).parameters), None)
    if first == "input_ids" and inputs.args:
        (ids,) = inputs.args
    if not isinstance(ids, Tensor) or ids.is_floating_point() or not ids.numel():
        return
    table = getattr(embedding_of(module), "weight", None)
    for found in (int(ids.min()), int(ids.max())):
        if isinstance(table, Tensor) and not 0 <= found < len(table):
            raise RunError(f"token id {found}: the model has ids 0 to {len(table) - 1}")


def _placed(inputs: Inputs, module: nn.Module) -> Inputs:
    """The call with ``position_ids`` [B, T] where examples begin at different places.

    Raises:
        RunError: the module, one of the transformers library, takes no positions and does not read them off
            the mask.
    """
    if all(start == 0 for start, _ in inputs.spans):
        return inputs
    mask = inputs.kwargs["attention_mask"]
    assert isinstance(mask, Tensor)
    kwargs = with_positions(module, inputs.kwargs, (mask.long().cumsum(-1) - 1).clamp_min(0))
    if kwargs is None:
        kind = getattr(getattr(module, "config", None), "model_type", None)
        if kind is None or kind in _FROM_MASK:
            return inputs
        raise RunError(
            f"a batch that is padded at the left: {type(module).__name__} ({kind}) cannot be told where its"
            " examples begin, and would give them other positions; pad at the right (padding_side='right')"
        )
    return replace(inputs, kwargs=kwargs)


def _num_tokens(main: Tensor) -> int | None:
    """T of ids [B, T] or vectors [B, T, E]; 1 of vectors [B, E] or numbers [B]."""
    if main.dim() == 3 or (main.dim() == 2 and not main.is_floating_point()):
        return main.shape[1]
    return 1 if main.dim() <= 2 else None


def _span(mask: Sequence[bool]) -> tuple[int, int]:
    """Begin and end of the example's own tokens.

    Raises:
        RunError: they are not in one piece.
    """
    start = next((at for at, own in enumerate(mask) if own), 0)
    end = start + sum(mask)
    if not all(mask[start:end]) or start == end:
        raise RunError("an attention mask with holes, or of zeros only: pad at the left or at the right")
    return start, end


def _ids(given: Sequence[object], tokenizer: TextTokenizer | None) -> list[list[int]]:
    """Token ids of texts, or as given.

    Raises:
        RunError: texts without a tokenizer, or something else.
    """
    texts = [item for item in given if isinstance(item, str)]
    if len(texts) == len(given):
        if tokenizer is None:
            raise RunError("a text, but no tokenizer: give IntervenableModel(…, tokenizer=…), or token ids")
        return [list(tokenizer(text)["input_ids"]) for text in texts]
    lists = [list(item) for item in given if isinstance(item, list | tuple)]
    if len(lists) == len(given) and all(type(one) is int for item in lists for one in item):
        return lists
    raise RunError(f"a list of {type(given[0]).__name__}; give {FORMS}")


def _padded(ids: Sequence[Sequence[int]], tokenizer: TextTokenizer | None) -> dict[str, Tensor]:
    """Ids [B, T] padded at the right, with a mask where there is padding.

    Raises:
        RunError: an example without tokens.
    """
    lengths = [len(row) for row in ids]
    if not all(lengths):
        raise RunError("an example without tokens")
    # Whatever stands at masked places, nothing reads it.
    pad = getattr(tokenizer, "pad_token_id", None) or 0
    rows = [[*row, *[pad] * (max(lengths) - len(row))] for row in ids]
    padded = {"input_ids": torch.tensor(rows)}
    if len(set(lengths)) == 1:
        return padded
    mask = [[1] * length + [0] * (max(lengths) - length) for length in lengths]
    return {**padded, "attention_mask": torch.tensor(mask)}


def last_logits(logits: Tensor, inputs: Inputs) -> Tensor:
    """The logits [B, V] at each example's last own token, of logits [B, T, V], [B, 1, V] or [B, V]."""
    if logits.dim() == 2:
        return logits
    if logits.shape[1] == 1 or not inputs.spans:
        return logits[:, -1]
    last = torch.tensor([end - 1 for _, end in inputs.spans], device=logits.device)
    return logits[torch.arange(len(logits), device=logits.device), last]


def format_token(tokenizer: TextTokenizer | None, token_id: int) -> str:
    """A token as text in which spaces (``_``) and line ends can be seen; without a tokenizer its number."""
    if tokenizer is None:
        return str(token_id)
    return tokenizer.decode([token_id]).replace(" ", "_").replace("\n", "\\n").replace("\t", "\\t")
