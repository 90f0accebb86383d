"""Removal of categories from trained models, and the choice of their number."""
