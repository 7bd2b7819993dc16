"""SQL over studies: the views of `docs/views.md`, built from committed parts only."""

from orchestrator.views.connection import VIEWS, connect
from orchestrator.views.needs import EVERYTHING, Needs, needs_of

__all__ = ["EVERYTHING", "VIEWS", "Needs", "connect", "needs_of"]
