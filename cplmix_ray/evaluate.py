"""Entry point of `python -m cplmix_ray.evaluate`."""

from cplmix_ray.cli.evaluate_command import evaluate
from cplmix_ray.cli.exits import run_command

if __name__ == "__main__":
    run_command(evaluate)
