"""Mixtures, k-means ensembles, and merging of categories."""
