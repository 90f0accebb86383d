"""Entry point of `python -m cplmix_ray.de`."""

from cplmix_ray.cli.de_command import de
from cplmix_ray.cli.exits import run_command

if __name__ == "__main__":
    run_command(de)
