"""Training on workers of Ray Train."""
