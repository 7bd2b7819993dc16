"""Fits: subspaces and vectors learned of activations, by DAS, masks, PCA, means and probes."""
