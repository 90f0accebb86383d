"""Cells and images: reading, preparing, splitting, neighbours."""
