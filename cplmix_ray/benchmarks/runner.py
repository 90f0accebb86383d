"""All runs of a benchmark that have no row yet, one after the other or several at a time."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from pathlib import Path

from cplmix_ray.benchmarks.baselines import require_method
from cplmix_ray.benchmarks.jobs import Job
from cplmix_ray.benchmarks.results import append_row, key_of, read_rows
from cplmix_ray.benchmarks.single_run import Figures, Place, perform
from cplmix_ray.utils.errors import InputError, TrainingError

Failure = str
"""Why a run has no row, in one sentence."""


def without_row(jobs: Sequence[Job], rows: Path) -> list[Job]:
    """The jobs that are still to be done, of which is known that they can begin: better now than in the night.

    Raises:
        InputError: the rows cannot be read, or a method's packages or a job's data are missing.
    """
    done = {key_of(row) for row in read_rows(rows)}
    todo = [job for job in jobs if job.key not in done]
    for method in sorted({job.entry.method for job in todo}):
        require_method(method)
    for job in todo:
        data = job.config.input.data
        if data != "digits" and not Path(data).exists():
            raise InputError(f"There is no file {data} for entry '{job.entry.name}'; name its folder with --data-dir.")
    return todo


def conduct_benchmark(
    jobs: Sequence[Job],
    rows: Path,
    place: Place,
    workers: int,
    tell: Callable[[Job, Figures | Failure], None],
) -> int:
    """Run the jobs and add a row as each ends; one that fails does not end the others.

    Args:
        workers: runs at a time, each in a process of its own where there are several.
        tell: told of every job that ended.

    Returns:
        How many failed.

    Raises:
        InputError: a row cannot be written.
    """
    failed = 0
    with contextlib.closing(_performed(jobs, place, workers)) as results:
        for job, result in results:
            if isinstance(result, Failure):
                failed += 1
            else:
                append_row(rows, result)
            tell(job, result)
    return failed


def _performed(jobs: Sequence[Job], place: Place, workers: int) -> Generator[tuple[Job, Figures | Failure], None, None]:
    if workers == 1:
        for job in jobs:
            yield job, _attempt(job, place)
        return
    # Fresh processes: a fork would inherit threads in the middle of their work.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    whole = False
    try:
        under_way = {pool.submit(_attempt, job, place): job for job in jobs}
        for future in as_completed(under_way):
            try:
                yield under_way[future], future.result()
            except BrokenExecutor:
                raise TrainingError("A process of the benchmark died, of too little memory perhaps.") from None
        whole = True
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=whole, cancel_futures=True)
        if not whole:
            for process in processes:
                process.terminate()


def _attempt(job: Job, place: Place) -> Figures | Failure:
    try:
        return perform(job, place)
    except (InputError, TrainingError) as error:
        return str(error)
