"""Entry point of `python -m cplmix_ray.bench`."""

from cplmix_ray.cli.bench_command import bench
from cplmix_ray.cli.exits import run_command

if __name__ == "__main__":
    run_command(bench)
