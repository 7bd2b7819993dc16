"""Tolerances of logits: how far two runs of one job may differ in the last digits. No torch here.

Floats are added in another order wherever the shape of a forward changes: in another batch, and in a forward
that is resumed. In half precision each block rounds what it hands on, and the differences grow from block to
block: 640 interchanges on SmolLM2-135M (30 blocks, 5 and 20 tokens) differ by at most 5.4 machine epsilons of
the largest absolute logit between a resumed and a whole forward, and by 5.8 between whole forwards of two
batch sizes. The bound is 8.
"""

__all__ = ["AGREEMENT", "IN_BLOCK"]

from collections.abc import Mapping
from types import MappingProxyType

AGREEMENT: Mapping[str, float] = MappingProxyType(
    {"float64": 1e-5, "float32": 1e-5, "bfloat16": 2.0**-4, "float16": 2.0**-7}
)
"""Largest difference of a logit between tiers, by dtype, as a share of the largest absolute logit."""

IN_BLOCK: Mapping[str, float] = MappingProxyType(
    {"float64": 1e-5, "float32": 1e-5, "bfloat16": 2.0**-5, "float16": 2.0**-8}
)
"""Largest difference within one block, by dtype, where a number is rounded a few times: four machine
epsilons in half precision. Norms and rotary embeddings reckon in float32 whatever the model's dtype."""
