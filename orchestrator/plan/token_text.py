"""Text of the tokens and answers of a lane's model, with a tokeniser or without one."""

__all__ = ["TokenText"]

from collections.abc import Sequence
from functools import cached_property

from studies.pairs.tokens import Tokenizer
from workers.model.facts import ModelFacts
from workers.vocabulary import Prompt, Vectors


class TokenText:
    """The tokeniser of a model, where it has one; a built-in model's ids and classes are called by number."""

    def __init__(self, facts: ModelFacts) -> None:
        """Read the tokeniser from the model's folder.

        Raises:
            ModelError: the folder has none, or it cannot be read.
        """
        self.tokenizer = None if facts.folder is None else Tokenizer.of(facts.folder)
        self._num_answers = facts.num_logits

    @cached_property
    def answers(self) -> Sequence[str]:
        """Text of each id that the model can predict: a token of its vocabulary, or a class."""
        if self.tokenizer is not None:
            return self.tokenizer.vocabulary()
        return [str(number) for number in range(self._num_answers)]

    def of(self, prompt: Prompt) -> list[str]:
        """The tokens of a prompt; none of vectors, which have no words."""
        if isinstance(prompt, Vectors):
            return []
        if self.tokenizer is None:
            return [str(number) for number in prompt]
        known = self.answers
        return [known[number] if number < len(known) else f"<id {number}>" for number in prompt]
