"""Partitions of cells: ensembles of them, and merging fine ones."""
