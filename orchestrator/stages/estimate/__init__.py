"""Estimates of all cells of a screened study, from which those are selected that the sweep runs."""
