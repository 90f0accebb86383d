"""Pruning of categories."""
