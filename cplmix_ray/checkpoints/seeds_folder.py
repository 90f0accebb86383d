"""The folder of runs that differ in the seed alone."""

import json
from pathlib import Path

from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config import RunConfig, save_config
from cplmix_ray.utils.durable import write_json
from cplmix_ray.utils.errors import InputError


class SeedsFolder(RunFolder):
    """Paths of several runs and their consensus: seed-S/ for each run, seeds.json, and config.yaml, metrics.json and
    result.h5ad as in the folder of one run."""

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.facts = self.path / "seeds.json"

    def run(self, seed: int) -> RunFolder:
        """The folder of one of the runs."""
        return RunFolder(self.path / f"seed-{seed}")

    def n_seeds(self) -> int | None:
        """The number of runs; None if this is no such folder."""
        return None if not self.facts.exists() else int(self._read()["n_seeds"])

    def keep(self, config: RunConfig, n_seeds: int, medoid: int | None = None) -> None:
        """Write the settings, the number of runs, and once they have ended the seed of the medoid.

        Raises:
            InputError, DiskError: it cannot be written there.
        """
        save_config(config, self.config)
        write_json(self.facts, {"n_seeds": n_seeds, "medoid": medoid})

    def medoid(self) -> RunFolder:
        """The run whose categories agree most with those of the others.

        Raises:
            InputError: not all runs have ended.
        """
        seed = self._read()["medoid"]
        if seed is None:
            raise InputError(
                f"{self.path} holds runs with several seeds that have not all ended; continue them with --resume, or "
                f"give the folder of one of them."
            )
        return self.run(seed)

    def _read(self) -> dict:
        try:
            tree = json.loads(self.facts.read_text(encoding="utf-8"))
            n_seeds, medoid = tree["n_seeds"], tree["medoid"]
        except (OSError, ValueError, KeyError, TypeError):
            tree, n_seeds, medoid = {}, None, None
        if type(n_seeds) is not int or n_seeds < 2 or not (medoid is None or type(medoid) is int):
            raise InputError(f"{self.facts} is damaged; remove it, and repeat the command with --resume and --seeds.")
        return tree
