"""SQL over studies: the views of `docs/views.md`, built from committed parts only."""
