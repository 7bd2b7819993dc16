"""Sweep: the jobs of a study, cells × pairs, slice by slice."""
