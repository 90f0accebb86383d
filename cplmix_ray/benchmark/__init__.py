"""Measured comparisons: the same cells, several methods and settings, several seeds, a row for each run."""
