"""Durable files, threads, randomness, checks of finite values, errors."""
