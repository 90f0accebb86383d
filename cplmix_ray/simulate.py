"""Entry point of `python -m cplmix_ray.simulate`."""

from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.simulate_command import simulate

if __name__ == "__main__":
    run_command(simulate)
