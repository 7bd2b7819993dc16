"""Group of entry points by which packages bring stages."""

__all__ = ["GROUP"]

GROUP = "swapyard.stages"
"""Each entry point of the group names an object of type `orchestrator.stages.contract.Stage`."""
