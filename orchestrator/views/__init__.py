"""SQL over studies: the views of `docs/views.md`, built from committed parts only."""

from orchestrator.views.connection import VIEWS, connect

__all__ = ["VIEWS", "connect"]
