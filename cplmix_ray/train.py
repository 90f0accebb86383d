"""Entry point of `python -m cplmix_ray.train`."""

from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.train_command import train

if __name__ == "__main__":
    run_command(train)
