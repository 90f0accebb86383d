"""Measures the memory that training on an .h5ad takes beyond imports and a short first run; prints JSON.

Usage: memory_on_disk.py FILE yes|no
"""

import json
import resource
import sys

import torch

import cplmix_ray.data.matrix.on_disk as on_disk
from cplmix_ray.cli.train_command import train
from cplmix_ray.data.io.read import read_source
from cplmix_ray.training.prefetch import Prefetcher

BUFFER = 8192
USUAL = "--preset published --n-categories 5 --hidden 16 --bottleneck 6 --batch-size 500 --engine local --threads 1"


def peak() -> float:
    """Peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(path: str, backed: str) -> None:
    torch.set_num_threads(1)
    on_disk._BUFFER_CELLS, on_disk.SAMPLE = BUFFER, 2000
    most, original = [0], Prefetcher.__exit__

    def leave(self, *error):
        most[0] = self.peak_rows
        return original(self, *error)

    Prefetcher.__exit__ = leave
    usual = USUAL.split()
    # A short run first, so that imports made on the way are not counted.
    train(["--data", path, "--subset", "2000", *usual, "--max-steps", "4", "--out", f"{path}.few", "--backed", backed])
    before = peak()
    train(["--data", path, *usual, "--max-steps", "60", "--out", f"{path}.{backed}", "--backed", backed])
    print(json.dumps({"grown": peak() - before, "peak_rows": most[0], "cells": read_source(path).n_cells}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
