"""Causal models: what a network is supposed to compute, and what it would say after an interchange.

`model` is the model itself, `sampling` draws inputs and pairs, `bundled` and `named` are those that a study
can name: all without torch. `module` is a causal model as a module that the wrapper can change.
"""
