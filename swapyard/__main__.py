"""``python -m swapyard``: the command line, where the command itself is not on the path."""

__all__ = ()

from orchestrator.cli import console

if __name__ == "__main__":
    console()
