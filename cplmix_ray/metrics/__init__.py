"""Metrics of categories, states and agreement."""
