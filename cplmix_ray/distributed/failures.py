"""What a worker's failure means: whether the run would meet it again, and how to say it."""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from ray.exceptions import RayError, RayTaskError

from cplmix_ray.distributed.plan import Plan
from cplmix_ray.utils.errors import InputError, NonFiniteError, TrainingError, WorkerLostError


def cause_of(error: BaseException) -> BaseException:
    """What a worker raised; Ray's own error where the worker could raise nothing any more."""
    return error.cause if isinstance(error, RayTaskError) else error


def would_repeat(cause: BaseException) -> bool:
    """Whether the same run would fail in the same way again.

    A process or a machine that is gone, a link that broke and a device that failed may be well the next time. All
    else comes from the data, the settings or the program.
    """
    if isinstance(cause, torch.OutOfMemoryError):
        return True
    if isinstance(cause, RayError | dist.DistError | torch.AcceleratorError | ConnectionError):
        return False
    return not (type(cause) is RuntimeError and "gloo" in str(cause))  # gloo has no error type of its own


def most_telling(causes: Sequence[BaseException]) -> BaseException:
    """What a worker found in its own arm goes before what the others saw of it."""
    return min(causes, key=_distance)


def _distance(cause: BaseException) -> int:
    if isinstance(cause, NonFiniteError):
        return 0 if cause.arm is not None else 1
    return 2 if isinstance(cause, InputError) else 3 if would_repeat(cause) else 4


def as_error(
    found: dict[int, BaseException], plan: Plan, silent: Mapping[int, float] | None = None, reached: int | None = None
) -> Exception:
    """The error to raise for what was heard from the workers after the first failure.

    Args:
        found: rank -> cause, the first failure first; workers that told of none are not in it.
        silent: rank -> seconds for which a worker, asked for it, gave no sign of life.
        reached: the most steps that a worker had done.
    """
    silent = silent or {}
    if not found:
        return WorkerLostError(arms_of(sorted(silent), plan), _silence(silent), reached)
    cause = most_telling(list(found.values()))
    if isinstance(cause, NonFiniteError | InputError):
        return cause
    if would_repeat(cause):
        ranks = [rank for rank, other in found.items() if other is cause]
        return TrainingError(f"The worker of arm {arms_of(ranks, plan)} failed ({words(cause)}).")
    # The dead are known by Ray's word, the stopped by their silence; of those who live, one that still told of a
    # broken link is not the one that broke it.
    dead = {rank: cause for rank, cause in found.items() if isinstance(cause, RayError)}
    others = [rank for rank in range(len(plan.workers)) if rank not in found]
    ranks = sorted({*dead, *silent}) or others or sorted(found)
    seen = [words(cause) for cause in dead.values()] + ([_silence(silent)] if silent else [])
    return WorkerLostError(arms_of(ranks, plan), "; ".join(dict.fromkeys(seen or [words(cause)])), reached)


def _silence(silent: Mapping[int, float]) -> str:
    return f"no sign of life for {max(silent.values()):.0f} s"


def arms_of(ranks: Iterable[int], plan: Plan) -> str:
    """Arms of some workers, as "0+1, 2", or "0 (share 0)" where several workers hold the same arms."""
    return ", ".join(
        "+".join(str(arm) for arm in plan.workers[rank])
        + (f" (share {rank % plan.replicas})" if plan.replicas > 1 else "")
        for rank in ranks
    )


def words(error: BaseException) -> str:
    """The kind of an error and the first sentence of its text."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first.split('. ')[0].removesuffix('.')[:200]}"
