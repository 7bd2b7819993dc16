"""``python -m orchestrator.cli``: the command line where `swapyard` itself is not installed."""

__all__: list[str] = []

from orchestrator.cli import main

main()
