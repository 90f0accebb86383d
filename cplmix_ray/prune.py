"""Entry point of `python -m cplmix_ray.prune`."""

from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.prune_command import prune

if __name__ == "__main__":
    run_command(prune)
