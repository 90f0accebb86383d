"""Entry point of `python -m cplmix_ray.augment`."""

from cplmix_ray.cli.augment_command import augment
from cplmix_ray.cli.exits import run_command

if __name__ == "__main__":
    run_command(augment)
