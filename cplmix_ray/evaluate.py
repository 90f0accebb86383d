"""Entry point of `python -m cplmix_ray.evaluate`."""

from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.evaluate_command import evaluate

if __name__ == "__main__":
    run_command(evaluate)
