"""Resumed forwards: a job runs only from the first block and the first token that it changes, on a KV cache.

The clean run of a base is cached once: its keys, its values and the inputs of its blocks. A job's forward
is then the model's own, over the last tokens only, with the captured keys and values as its cache; the blocks
before its first changed one return what they are given. Which models this reproduces is found by trying, at
load (`workers.engine.replay.verify`); all others run hooked.
"""
