"""Layout of a model's blocks as a resumed forward needs it: found by the check at load, and held by `Resume`.

A resumed forward begins at the first block and token that a job changes, on the KV cache of the base's run.

Shapes: n rows, q tokens from the first changed one to the end, W width.
"""

__all__ = ["Resume", "find_blocks", "num_rows_at", "own_block_of"]

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from workers.model.families import Family
from workers.model.hooks import Tap


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Blocks of a model, and the ways in which its forward can begin at one of them."""

    blocks: str
    """Path of the list of blocks."""
    num_blocks: int
    grows: bool
    """Whether rows may begin at different blocks of one forward: the library then believes in a batch of
    one, whose masks and positions all rows share. Otherwise all rows of a forward begin at one block."""
    num_returned: int
    """Length of the tuple that a block returns; 0 where it returns the hidden state itself."""
    block_of: Mapping[str, int]
    """Block that a module belongs to, by the module's path, for the modules of one block alone whose
    tensors in a resumed forward were seen to be the last tokens of those in a whole one."""
    token_local: frozenset[Tap]
    """Token-local taps: a change of one token was seen to leave the block's output of all others as it was:
    queries, what attention returns, the MLP. None where all rows of a forward begin at one block."""
    shares_prefixes: bool
    """Whether prompts that begin alike can go on from one run of what they share."""
    is_chain: bool
    """Whether each block is given what the one before it returns, and nothing happens in between."""
    cache_bytes: tuple[int, ...]
    """Size of one token's keys and values in each block."""
    block_parameters: float
    """Numbers in the weights of one block."""
    embedding_width: int
    """Width of the vectors that the model's forward takes in the place of token ids."""
    head_cost: float
    """Cost of the unembedding of one token, in runs of one block over one token."""

    def input_of(self, block: int) -> Tap:
        """Tap of the input of a block."""
        return Tap(f"{self.blocks}.{block}", "input")

    def cost(self, block: int, num_tokens: int) -> float:
        """Cost of a row from `block` over its last `num_tokens` tokens; unit: one block over one token."""
        return (self.num_blocks - block) * num_tokens + self.head_cost


def find_blocks(module: nn.Module, family: Family | None, num_layers: int) -> str | None:
    """Path of the list of blocks: as the family's table says, or the only list of `num_layers` modules."""
    if family is not None:
        return family.blocks
    lists = [
        path
        for path, found in module.named_modules()
        if isinstance(found, nn.ModuleList) and len(found) == num_layers
    ]
    return lists[0] if len(lists) == 1 else None


def own_block_of(module: nn.Module, blocks: str) -> dict[str, int]:
    """Block of each module, by path, that is found in no other place of the model."""
    everywhere = list(module.named_modules(remove_duplicate=False))
    num_places = Counter(id(found) for _, found in everywhere)
    prefix = f"{blocks}."
    return {
        path: int(path.removeprefix(prefix).partition(".")[0])
        for path, found in everywhere
        if path.startswith(prefix) and num_places[id(found)] == 1
    }


def num_rows_at(resume: Resume, starts: Sequence[int], tap: Tap) -> int:
    """Number of the rows that begin at `starts`, sorted, which have begun where `tap` is."""
    block = resume.block_of.get(tap.module)
    return len(starts) if block is None else bisect_right(starts, block)
