"""The folder of a run and the names of its files, which are part of the public interface."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cplmix_ray.checkpoints.checkpoint import foreign_entries
from cplmix_ray.utils.durable import holds_more, make_folder, require_writable, unwritten, write_json, write_whole
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.home import expand_home

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class RunFolder:
    """Paths of a run: config.yaml, metrics.json, result.h5ad, checkpoints/, tensorboard/.

    Args:
        tensorboard: folder of the scalars; default: in the folder of the run.
    """

    def __init__(self, path: str | Path, tensorboard: Path | None = None):
        self.path = Path(expand_home(path))
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.json"
        self.result = self.path / "result.h5ad"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = tensorboard or self.path / "tensorboard"

    def holds_run(self) -> bool:
        """Whether the folder contains settings or a checkpoint; remains of an interrupted write do not count."""
        return self.config.exists() or holds_more(self.checkpoints)

    def require_room(self, resume: bool) -> None:
        """Check that the folder is writable and that no other run would be overwritten.

        Raises:
            InputError: otherwise.
        """
        if self.holds_run() and not resume:
            raise InputError(
                f"{self.path} already contains a run; add --resume to continue it, or choose another --out."
            )
        require_writable(self.path)

    def require_room_for_model(self, overwrite: bool) -> None:
        """Check that the folder is writable and that a model saved in it replaces at most another saved model.

        Raises:
            InputError: otherwise.
        """
        if self.config.exists():
            raise InputError(
                f"{self.path} is the folder of a training run, whose other files would no longer fit the model; choose "
                f"another path."
            )
        foreign = foreign_entries(self.checkpoints)
        if foreign:
            raise InputError(
                f"{self.checkpoints} is no folder of a saved model, as it contains '{foreign[0]}'; choose another path."
            )
        if self.holds_run() and not overwrite:
            raise InputError(
                f"{self.path} already contains a model; give overwrite=True to replace it, or choose another path."
            )
        require_writable(self.path)

    def make(self) -> None:
        """Create the folder if it does not exist.

        Raises:
            InputError, DiskError: it cannot be created.
        """
        try:
            make_folder(self.path)
        except OSError as error:
            raise unwritten(self.path, error) from None

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        write_json(self.metrics, metrics)

    def write_table(self, name: str, table: "pd.DataFrame") -> None:
        write_whole(self.path / f"{name}.csv", lambda path: table.to_csv(path, index=False, lineterminator="\n"))

    def write_figure(self, name: str, figure: "Figure") -> None:
        write_whole(self.path / f"{name}.png", lambda path: figure.savefig(path, dpi=150, format="png"))
