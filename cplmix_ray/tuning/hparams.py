"""TensorBoard's HPARAMS page: one line a trial."""

import contextlib
from pathlib import Path

from cplmix_ray.training.event_file import ScalarFile
from cplmix_ray.tuning.trial_runner import REPORTED
from cplmix_ray.tuning.trial_state import TrialState
from cplmix_ray.utils.errors import DiskError


def write_hparams(folder: Path, state: TrialState) -> None:
    """Write a trial's settings and scores; what was written before for the same trial gives way.

    Raises:
        DiskError: they cannot be written; what was there stays.
    """
    from torch.utils.tensorboard.summary import hparams

    point = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in state.point.items()
    }
    scores = {name: state.report[name] for name in ("score", *REPORTED) if state.report.get(name) is not None}
    values = {f"trial/{name}": score for name, score in scores.items()}
    before, said = _files(folder), list[str]()
    file = ScalarFile(folder, 0, said.append)
    for summary in hparams({**point, "status": state.status}, values):
        file.add_summary(summary)
    file.add(0, values)
    file.close()
    for path in _files(folder) - before if said else before:
        with contextlib.suppress(OSError):
            path.unlink()
    if said:
        raise DiskError(said[0])


def _files(folder: Path) -> set[Path]:
    return set(folder.glob("events.out.tfevents.*"))
