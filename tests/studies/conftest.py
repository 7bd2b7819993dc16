"""What the tests of the study language share."""

from pathlib import Path

import pytest
from hypothesis import settings

from workers.model.facts import ModelFacts

# A shared machine is slow at times; no promise here is about how long one example takes.
settings.register_profile("no deadline", deadline=None, max_examples=60)
settings.load_profile("no deadline")

SMOLLM2 = ModelFacts(
    ref="smollm2-135m",
    revision="abc",
    dtype="float32",
    folder=Path("models"),
    model_type="llama",
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    width=576,
    vocab_size=49152,
    num_parameters=134_515_008,
)


@pytest.fixture(scope="session")
def facts() -> ModelFacts:
    """The shape of SmolLM2-135M."""
    return SMOLLM2
