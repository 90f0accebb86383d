"""Layers with a leading arm axis, rows of minibatches, image moments, Adam."""
