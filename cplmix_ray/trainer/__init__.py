"""One run's loop: steps, schedules, randomness, checkpoints. Knows torch.distributed, and no Ray."""
