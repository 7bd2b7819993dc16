"""Costs of jobs, reckoned before any of them runs.

The unit is one token through all blocks of the model. A job that is resumed runs (L - l) of L blocks, from
the first that it changes, on T - p of T tokens, from the first that it changes or reads; the head runs at
one token. A job that is not resumed, and each named run before it, runs all.
"""

__all__ = ["Costs", "may_resume"]

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from orchestrator.plan.prepare import Input
from workers.engine.replay.families import HOOKED
from workers.model.facts import ModelFacts
from workers.model.families import BUILT_IN
from workers.vocabulary import Cell, Pair, Position, Prompt, Span, locate, span_name

FEW = 64
"""Pairs whose spans are looked at."""

_NOT_RESUMED = HOOKED.keys() | {kind for family in BUILT_IN for kind in family.model_types}


def may_resume(model_type: str) -> bool:
    """Whether jobs on models of this type are expected to be resumed; a check at load decides."""
    return model_type not in _NOT_RESUMED


class Costs:
    """The costs of one model's cells."""

    def __init__(self, facts: ModelFacts) -> None:
        self._num_layers = facts.num_layers
        self.may_resume = may_resume(facts.model_type)
        """Whether jobs are expected to be resumed."""
        head = facts.num_logits * facts.width
        self.head = head / max(1, facts.num_parameters - head)
        """The cost of the head at one token."""

    def whole(self, cells: Sequence[Cell], num_tokens: int) -> np.ndarray:
        """Cost of each cell for one pair where nothing is resumed; shape (num_cells,)."""
        return np.array([(1 + len(cell.runs)) * num_tokens + self.head for cell in cells], np.float32)

    def captures(self, prompts: Sequence[Mapping[str, Prompt]]) -> float:
        """The cost of the clean runs of some pairs' prompts, each once; of bases with the head."""
        bases = {prompt["base"] for prompt in prompts}
        others = {prompt for one in prompts for run, prompt in one.items() if run != "base"}
        return sum(len(prompt) for prompt in bases | others) + self.head * len(bases)

    def of(self, cells: Sequence[Cell], inputs: Sequence[Input | Pair]) -> np.ndarray:
        """The cost of each cell for one pair; shape (num_cells,), float32.

        The longest base counts for all `inputs`; a span begins where it does on average in the first few.
        """
        num_tokens = max(len(one.tokens["base"]) for one in inputs)
        spans = [one.spans.get("base", {}) for one in inputs[:FEW]]

        @lru_cache(1 << 16)
        def first_token(position: Position) -> float:
            return _first_token(position, spans)

        return np.array([self._of(cell, num_tokens, first_token) for cell in cells], np.float32)

    def _of(self, cell: Cell, num_tokens: int, first_token: Callable[[Position], float]) -> float:
        changed = float(num_tokens)
        block = min([_first_block(unit.place.site, unit.place.layer) for unit in cell.units])
        # What coordinates change is no position of its own: such jobs run whole.
        is_by_token = all(unit.place.coordinates is None for unit in cell.units)
        if self.may_resume and block >= 0 and is_by_token:
            tokens = [first_token((cell.read,)), *[first_token(unit.place.position) for unit in cell.units]]
            # What leaves the last block is changed there.
            block = min(block, self._num_layers - 1)
            changed = (num_tokens - min(tokens)) * (1 - block / self._num_layers)
        return changed + len(cell.runs) * num_tokens + self.head


@lru_cache(1 << 16)
def _first_block(site: str, layer: int | None) -> int:
    """The first block that a change at a place reaches; -1 where the place does not say."""
    if layer is not None:
        return layer + (site == "block_output")
    numbers = [int(name) for name in re.split("[.:]", site) if name.isdecimal()]
    return numbers[0] if numbers else -1


def _first_token(position: Position, spans: Sequence[Mapping[str, Span]]) -> float:
    """First token of a position, on average over `spans`; 0 where nothing tells."""
    if all(isinstance(item, int) for item in position):
        return float(min(position))
    names = {span_name(item) for item in position if isinstance(item, str)}
    found = [min(locate(position, named)) for named in spans if names <= named.keys()]
    return sum(found) / len(found) if found else 0.0
