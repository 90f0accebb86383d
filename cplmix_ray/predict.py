"""Entry point of `python -m cplmix_ray.predict`."""

from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.predict_command import predict

if __name__ == "__main__":
    run_command(predict)
