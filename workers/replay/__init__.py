"""The resumed tier: a job runs only from the first block and the first token that it changes.

The clean run of a base is captured once: its keys, its values and what its blocks are given. A job's forward
is then the model's own, over the last tokens only, with the captured keys and values as its cache; the blocks
before its first changed one return what they are given. Which models this reproduces is found by trying, at
load (`workers.replay.verify`); all others run hooked.
"""
