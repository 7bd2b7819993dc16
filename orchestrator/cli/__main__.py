"""``python -m orchestrator.cli``: the command line where `swapyard` itself is not installed."""

__all__ = ()

from orchestrator.cli import console

if __name__ == "__main__":
    console()
