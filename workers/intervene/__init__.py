"""Interventions at a place of a model: operation, coordinates, and the run that the value comes from."""
