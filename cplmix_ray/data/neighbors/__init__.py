"""Neighbors and initial clusterings of cells."""
