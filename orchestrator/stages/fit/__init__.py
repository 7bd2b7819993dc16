"""Fits of subspaces, masks, and vectors that the cells of a sweep use."""
