"""Matrices in memory, on disk and made on demand."""
