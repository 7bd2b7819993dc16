"""Promise: the reference that the engine is compared with computes what the library's models compute."""

import pytest
import torch
from reference import NETWORKS, record
from tiny import tiny


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_decoders_written_by_hand_give_the_librarys_logits(kind: str) -> None:
    tokens = (5, 17, 3, 44, 9, 9, 30)
    module = tiny(kind).module
    ours = record(kind, module, tokens)["logits", -1]
    theirs = module(input_ids=torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))
