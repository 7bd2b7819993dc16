"""Studies that an earlier version left behind, in ``tests/data/golden``: how they are made and compared."""
