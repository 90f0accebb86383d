"""The same training loop under Ray Train, whose storage, failure and preemption handling bring a long run back."""

from cplmix_ray.engine.ray_train.launch import train_on_ray_train

__all__ = ["train_on_ray_train"]
