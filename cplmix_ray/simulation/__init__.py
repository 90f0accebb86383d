"""Simulated cells with known types and states."""
