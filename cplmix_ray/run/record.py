"""TensorBoard: every term of the objective and every score, per arm and for the consensus."""

from pathlib import Path

from cplmix_ray.trainer.events import Logged


def total_loss(event: Logged) -> float:
    """What is minimised: all arms' own parts and their shares of the coupling."""
    return sum(event.per_arm["loss"])


class Recorder:
    """Writes scalars; points after ``step`` left by a run that was resumed are hidden."""

    def __init__(self, folder: Path, step: int):
        self.folder = folder
        self._open(step + 1 if step else None)

    def go_back(self, step: int) -> None:
        """Points after ``step`` are hidden: training does those steps once more."""
        self.writer.close()
        self._open(step + 1)

    def _open(self, purge_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder), purge_step=purge_step, flush_secs=10)

    def terms(self, event: Logged) -> None:
        self._add("loss/total", total_loss(event), event.step)
        for name, value in event.common.items():
            tag = f"loss/{name}" if name == "distance" else f"schedule/{name}"
            self._add(tag, value, event.step)
        for name, values in event.per_arm.items():
            for arm, value in enumerate(values):
                self._add(f"arm{arm}/{name}", value, event.step)

    def scores(self, step: int, consensus: dict[str, float], arms: list[dict[str, float]]) -> None:
        for name, value in consensus.items():
            self._add(f"consensus/{name}", value, step)
        for arm, scores in enumerate(arms):
            for name, value in scores.items():
                self._add(f"arm{arm}/{name}", value, step)

    def close(self) -> None:
        self.writer.close()

    def _add(self, tag: str, value: float, step: int) -> None:
        self.writer.add_scalar(tag, value, step)
