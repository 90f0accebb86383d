"""Entry point of `python -m cplmix_ray.compare`."""

from cplmix_ray.cli.compare_command import compare
from cplmix_ray.cli.exits import run_command

if __name__ == "__main__":
    run_command(compare)
