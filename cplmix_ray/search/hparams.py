"""TensorBoard's HPARAMS page: one line a trial."""

from pathlib import Path

from cplmix_ray.engine.tune.state import TrialState
from cplmix_ray.search.trial import REPORTED


def write_hparams(folder: Path, state: TrialState) -> None:
    """Write a trial's settings and scores; what was written before for the same trial gives way."""
    from torch.utils.tensorboard import SummaryWriter

    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    point = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in state.point.items()
    }
    scores = {name: state.report[name] for name in ("score", *REPORTED) if state.report.get(name) is not None}
    writer = SummaryWriter(str(folder))
    writer.add_hparams(
        {**point, "status": state.status}, {f"trial/{name}": score for name, score in scores.items()}, run_name="."
    )
    writer.close()
