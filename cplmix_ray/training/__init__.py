"""The training loop, its batch sources and callbacks; runs from start to end."""
