"""Durable files, errors, randomness, registries of named parts, threads, memory."""
