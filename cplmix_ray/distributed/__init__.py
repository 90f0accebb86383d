"""Ray actors, placement, failures; engines local, ray and ray_train."""
