"""Batches of jobs on one model: captured, run together, scored."""
