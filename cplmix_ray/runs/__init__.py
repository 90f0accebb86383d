"""A run from start to end: training, TensorBoard scalars, checkpoints, scores, results."""
