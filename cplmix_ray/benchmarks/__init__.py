"""Benchmarks of methods and of speed."""
