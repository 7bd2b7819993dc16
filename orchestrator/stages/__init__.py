"""Stages of a study: each folder is one kind of work, from what is left to do to its files."""

__all__ = ["GROUP"]

GROUP = "swapyard.stages"
"""Group of entry points, each of which names an object of type `orchestrator.stages.contract.Stage`."""
