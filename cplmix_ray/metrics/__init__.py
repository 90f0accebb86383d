"""Metrics: their registry, and scores of categories and states."""
