"""Entry point of `python -m cplmix_ray.splits`."""

from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.splits_command import splits

if __name__ == "__main__":
    run_command(splits)
