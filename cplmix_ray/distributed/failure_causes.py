"""Classification of worker failures: which cause to report, and whether repeating the run can succeed."""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from ray.exceptions import RayError, RayTaskError

from cplmix_ray.distributed.plan import Plan
from cplmix_ray.utils.errors import InputError, NonFiniteError, TrainingError, WorkerLostError


def cause_of(error: BaseException) -> BaseException:
    """The exception that a worker raised; Ray's own error if the worker died."""
    return error.cause if isinstance(error, RayTaskError) else error


def is_reproducible(cause: BaseException) -> bool:
    """Whether the same run would fail in the same way again.

    A dead process or machine, a broken connection and a failed device are not reproducible. All other errors come from
    the data, the settings or the program.
    """
    if isinstance(cause, torch.OutOfMemoryError):
        return True
    if isinstance(cause, RayError | dist.DistError | torch.AcceleratorError | ConnectionError):
        return False
    return not (type(cause) is RuntimeError and "gloo" in str(cause))  # gloo raises RuntimeError


def most_specific(causes: Sequence[BaseException]) -> BaseException:
    """The cause to report: an error of a worker's own units rather than its consequence on other workers."""
    return min(causes, key=_specificity)


def _specificity(cause: BaseException) -> int:
    """Order of the kinds of causes, the most specific first."""
    if isinstance(cause, NonFiniteError):
        return 0 if cause.unit is not None else 1
    return 2 if isinstance(cause, InputError) else 3 if is_reproducible(cause) else 4


def error_for(
    found: dict[int, BaseException],
    plan: Plan,
    unresponsive: Mapping[int, float] | None = None,
    reached: int | None = None,
) -> Exception:
    """The error to raise after workers have failed or have become unresponsive.

    Args:
        found: rank -> cause for the workers that failed, the first failure first.
        unresponsive: rank -> seconds without a reply to a heartbeat request.
        reached: the largest number of steps that a worker had done.
    """
    unresponsive = unresponsive or {}
    if not found:
        return WorkerLostError(units_of(sorted(unresponsive), plan), _silence(unresponsive), reached)
    cause = most_specific(list(found.values()))
    if isinstance(cause, NonFiniteError | InputError):
        return cause
    if is_reproducible(cause):
        ranks = [rank for rank, other in found.items() if other is cause]
        return TrainingError(f"The worker of {units_of(ranks, plan)} failed ({short_text(cause)}).")
    # Ray reports dead workers, and stopped ones are unresponsive. If there are none, a worker that reports a broken
    # connection is not the one that broke it.
    dead = {rank: cause for rank, cause in found.items() if isinstance(cause, RayError)}
    others = [rank for rank in range(len(plan.workers)) if rank not in found]
    ranks = sorted({*dead, *unresponsive}) or others or sorted(found)
    reasons = [short_text(cause) for cause in dead.values()] + ([_silence(unresponsive)] if unresponsive else [])
    text = "; ".join(dict.fromkeys(reasons or [short_text(cause)]))
    return WorkerLostError(units_of(ranks, plan), text, reached)


def _silence(unresponsive: Mapping[int, float]) -> str:
    return f"no response for {max(unresponsive.values()):.0f} s"


def units_of(ranks: Iterable[int], plan: Plan) -> str:
    """Units of some workers, as "arm 0+1, 2", or "arm 0 (share 0)" if several workers hold the same units."""
    return f"{plan.unit} " + ", ".join(
        "+".join(str(unit) for unit in plan.workers[rank])
        + (f" (share {rank % plan.replicas})" if plan.replicas > 1 else "")
        for rank in ranks
    )


def short_text(error: BaseException) -> str:
    """Type and first sentence of an error."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first.split('. ')[0].removesuffix('.')[:200]}"
