"""TensorBoard: every term of the objective and every score, per arm and for the consensus."""

from collections.abc import Callable
from pathlib import Path

from cplmix_ray.distributed.events import Logged
from cplmix_ray.training.event_file import ScalarFile


def total_loss(event: Logged) -> float:
    """What is minimised: all arms' own parts and their shares of the coupling."""
    return sum(event.per_arm["loss"])


class Recorder:
    """Writes scalars; points after ``step``, left by a run that was killed, are hidden."""

    def __init__(self, folder: Path, step: int, say: Callable[[str], None]):
        self.folder, self.say = folder, say
        self.file = ScalarFile(folder, step + 1, say)

    def go_back(self, step: int) -> None:
        """Points after ``step`` are hidden: training does those steps once more."""
        self.file.close()
        self.file = ScalarFile(self.folder, step + 1, self.say)

    def terms(self, event: Logged) -> None:
        values = {"loss/total": total_loss(event)}
        for name, value in event.common.items():
            values[f"loss/{name}" if name == "distance" else f"schedule/{name}"] = value
        for name, per_arm in event.per_arm.items():
            values |= {f"arm{arm}/{name}": value for arm, value in enumerate(per_arm)}
        self.file.add(event.step, values)

    def scores(self, step: int, consensus: dict[str, float], arms: list[dict[str, float]]) -> None:
        values = {f"consensus/{name}": value for name, value in consensus.items()}
        for arm, scores in enumerate(arms):
            values |= {f"arm{arm}/{name}": value for name, value in scores.items()}
        self.file.add(step, values)

    def keep(self) -> None:
        """Before a checkpoint is written: a run that goes on from it does not give the points before it again."""
        self.file.flush()

    def close(self) -> None:
        self.file.close()
