"""Seed 003: a GRU's state, swapped at some time steps. A step that is not swapped keeps its own state."""

import torch

import swapyard as sy

torch.manual_seed(0)
net = sy.IntervenableModel.load("zoo:gru", width=2, num_layers=1, outputs=2, seed=0)
base, source = torch.rand(10, 10, 2), torch.rand(10, 10, 2)


def swapped(to: int | list[int], at: int | list[int]) -> torch.Tensor:
    """The logits with the base's steps `to` taken from the source's steps `at`."""
    unit = sy.Unit("cell_output", layer=0, position=to, from_=sy.From("source", position=at))
    return net(base, source, units=[unit]).logits


print("a later swap overrides earlier ones:")
print(torch.equal(swapped([0, 2, 4], [0, 5, 7]), swapped(4, 7)))
print(torch.equal(swapped([0, 2], [0, 5]), swapped(2, 5)))
print("outputs are not zero:", bool(swapped(4, 7).abs().min() > 0))

rotation = sy.LowRankRotation(2, rank=2)
halves = [
    sy.Unit("cell_output", layer=0, position=-1, subspace=rotation[0]),
    sy.Unit("cell_output", layer=0, position=-1, subspace=rotation[1], from_="source_2"),
]
net = sy.IntervenableModel(net.module, halves)
out = net(base, {"source": source, "source_2": source})
print("source      ", net(source, units=[]).logits[0])
print("half by half", out.logits[0])
net(base, source, units=halves[:1]).logits.sum().backward()
print("gradient of the rotation:", f"{net.trainable_parameters()[0].grad.norm():.2g}")
