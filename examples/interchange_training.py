"""Seed 000: gradients through an interchange in GPT-2, as interchange intervention training needs them.

python examples/interchange_training.py                  a small GPT-2 with random weights
python examples/interchange_training.py openai-community/gpt2    the real one, 124,439,808 parameters
"""

import sys

from transformers import GPT2Config, GPT2Model

import swapyard as sy

if len(sys.argv) > 1:
    gpt2 = sy.IntervenableModel.load(sys.argv[1]).module.base_model
else:
    gpt2 = GPT2Model(GPT2Config(n_embd=48, n_layer=4, n_head=4))

base, source = [[464, 3139, 286, 8602, 318]], [[464, 3139, 286, 8031, 318]]  # The capital of Spain / Italy is
net = sy.IntervenableModel(gpt2, [sy.Unit("mlp_activation", layer=2, position=3)])
print("trainable parameters:", net.num_parameters(trainable=True))
net.enable_gradients()
print("with gradients:", net.num_parameters(trainable=True))

out = net(base, source, base_output=True)
difference = out.output.last_hidden_state - out.base.last_hidden_state
print("largest change at each token:", [f"{change:.2g}" for change in difference[0].abs().amax(-1).tolist()])
out.output.last_hidden_state[0, -1, 0].backward()
print("gradient of the first layer:", f"{gpt2.h[0].mlp.c_fc.weight.grad.norm():.3g}")
