"""The other libraries that `benchmarks.peers` compares with, each in a process of its own.

These files run in the environment of `benchmarks/peers.txt`, which has none of this project's packages.
"""
