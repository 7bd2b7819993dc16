"""A model on this machine: fetched, loaded, and what its modules hold where."""
