"""Seed 001: where does a model recall a capital?

Each MLP's output and each attention's input takes, at each token, the value that it has on another country.

    python examples/factual_recall.py [MODEL]        smollm2-135m unless said otherwise
"""

import sys

import swapyard as sy

net = sy.IntervenableModel.load(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m")
base, source = "The capital of Spain is", "The capital of Italy is"
for prompt in (base, source):
    print(prompt)
    for token, p in net.top_tokens(prompt):
        print(f"  {token:<12} {p:.4f}")

answers = [net.tokenizer(text)["input_ids"][-1] for text in (" Madrid", " Rome")]
num_tokens = len(net.tokenizer(base)["input_ids"])
print("layer site position", *map(net.format_token, answers))
for layer in range(net.module.config.num_hidden_layers):
    for site in ("mlp_output", "attention_input"):
        swap = sy.Unit(site, layer=layer, position=sy.per_example(range(num_tokens)))  # one for each example
        probs = net.next_token_probs([base] * num_tokens, source, units=[swap])
        for position, p in enumerate(probs[:, answers].tolist()):
            print(layer, site, position, f"{p[0]:.4f} {p[1]:.4f}")
