"""The folder of a search and the names in it that users script against."""

from pathlib import Path

from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.utils.durable import require_writable
from cplmix_ray.utils.errors import InputError


class TrialFolder:
    """Paths of one trial: a run folder per seed, trial.json, reports.jsonl, failure.json where it failed, and
    taken.json where it took the weights of another trial.
    """

    def __init__(self, path: Path, tensorboard: Path):
        self.path, self.tensorboard = path, tensorboard
        self.record = path / "trial.json"
        self.reports = path / "reports.jsonl"
        self.failure = path / "failure.json"
        self.taken = path / "taken.json"

    def run(self, seed: int) -> RunFolder:
        return RunFolder(self.path / f"seed-{seed}", self.tensorboard / f"seed-{seed}")


class SearchFolder:
    """Paths of a search: search.yaml, results.csv, figure.png, best/, tensorboard/, trials/, and with population based
    training exchanges.jsonl. ``older`` marks a search of an older version, of which nothing is read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.spec = self.path / "search.yaml"
        self.results = self.path / "results.csv"
        self.figure = self.path / "figure.png"
        self.best = self.path / "best"
        self.tensorboard = self.path / "tensorboard"
        self.trials = self.path / "trials"
        self.exchanges = self.path / "exchanges.jsonl"
        self.older = self.path / "tune"

    def trial(self, name: str) -> TrialFolder:
        return TrialFolder(self.trials / name, self.tensorboard / name)

    def next_trial(self) -> str:
        """A name that no trial has yet; its folder is made at once, so that a later process does not use it again."""
        number = 1 + max((int(path.name) for path in self.trials.glob("[0-9]*")), default=-1)
        (self.trials / f"{number:04d}").mkdir(parents=True)
        return f"{number:04d}"

    def require_room(self, resume: bool) -> None:
        """Check before any work that the folder can be written to and that no other search is overwritten.

        Raises:
            InputError: otherwise.
        """
        if not resume and (self.spec.exists() or self.trials.exists() or RunFolder(self.path).holds_run()):
            raise InputError(
                f"{self.path} already holds a search or a run; add --resume to continue it, or choose another --out."
            )
        require_writable(self.path)
