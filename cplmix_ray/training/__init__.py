"""The training loop, its batch sources and events."""
