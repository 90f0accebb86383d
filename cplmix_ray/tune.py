"""Entry point of `python -m cplmix_ray.tune`."""

from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.tune_command import tune

if __name__ == "__main__":
    run_command(tune)
