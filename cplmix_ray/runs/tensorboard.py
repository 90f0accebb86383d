"""TensorBoard scalars of a run: terms of the objective and scores, for each unit and for all units together."""

from collections.abc import Callable
from pathlib import Path

from cplmix_ray.runs.event_file import ScalarFile
from cplmix_ray.runs.history import History
from cplmix_ray.training.events import Logged


def total_loss(event: Logged) -> float:
    """The loss summed over units."""
    return sum(event.terms["loss"])


class TensorBoardWriter:
    """Writes scalars; points after ``step`` that a killed run left are hidden.

    Args:
        tags: prefix of the scalars of each unit.

    Attributes:
        history: the same scalars in memory.
    """

    def __init__(self, folder: Path, step: int, say: Callable[[str], None], tags: list[str]):
        self.folder, self.say, self.tags = folder, say, tags
        self.file = ScalarFile(folder, step + 1, say)
        self.history = History()

    def go_back(self, step: int) -> None:
        """Hide points after ``step``, since training repeats those steps."""
        self.file.close()
        self.file = ScalarFile(self.folder, step + 1, self.say)
        self.history.go_back(step)

    def terms(self, event: Logged) -> None:
        values = {"loss/total": total_loss(event)}
        values |= {f"loss/{name}": value for name, value in event.shared.items()}
        values |= {f"schedule/{name}": value for name, value in event.settings.items()}
        for name, by_unit in event.terms.items():
            values |= {f"{tag}/{name}": value for tag, value in zip(self.tags, by_unit, strict=True)}
        self._add(event.step, values)

    def scores(self, step: int, combined: dict[str, float], units: list[dict[str, float]]) -> None:
        values = {f"consensus/{name}": value for name, value in combined.items()}
        for tag, scores in zip(self.tags, units, strict=False):
            values |= {f"{tag}/{name}": value for name, value in scores.items()}
        self._add(step, values)

    def _add(self, step: int, values: dict[str, float]) -> None:
        self.file.add(step, values)
        self.history.add(step, values)

    def flush(self) -> None:
        """Write all points now. Must be called before a checkpoint is written, since a run that is resumed from it does
        not repeat the points before it."""
        self.file.flush()

    def close(self) -> None:
        self.file.close()
