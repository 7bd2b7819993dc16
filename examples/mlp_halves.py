"""Seed 002: two halves of one rotation of an MLP's hidden layer, taken from one source or from two."""

import torch

import swapyard as sy

torch.manual_seed(0)
mlp = sy.IntervenableModel.load("zoo:mlp", width=32, num_layers=1, outputs=2, seed=0).module

rotation = sy.Rotation(32, parts={"first": "0:16", "second": "16:32"})
net = sy.IntervenableModel(mlp, [sy.Unit("block_output", layer=0, subspace=rotation[["second", "first"]])])
base, source = torch.rand(1, 1, 32), torch.rand(1, 1, 32)
print("base  ", net(base, units=[]).logits)
print("source", net(source, units=[]).logits)
print("both halves from the source", net(base, source).logits)

low_rank = sy.LowRankRotation(32, rank=32)
halves = [
    sy.Unit("block_output", layer=0, subspace=low_rank[16:32]),
    sy.Unit("block_output", layer=0, subspace=low_rank[0:16], from_="source_2"),
]
net = sy.IntervenableModel(mlp, halves)
base, source = torch.rand(10, 1, 32), torch.rand(10, 1, 32)
out = net(base, {"source": source, "source_2": source})
print("ten sources ", net(source, units=[]).logits)
print("half by half", out.logits)
net(base, source, units=halves[:1]).logits.sum().backward()
print("gradient of the rotation:", f"{net.trainable_parameters()[0].grad.norm():.2g}")
