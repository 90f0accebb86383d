"""Runs a benchmark in this process or in several at a time, and appends a row as each run ends."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from pathlib import Path

from cplmix_ray.benchmarks.baselines import require_method
from cplmix_ray.benchmarks.execute import Figures, RunOptions, execute
from cplmix_ray.benchmarks.results import append_row, keys_of, read_rows
from cplmix_ray.benchmarks.runs import BenchmarkRun
from cplmix_ray.utils.errors import InputError, TrainingError

Failure = str
"""Why a run failed, in one sentence."""


def pending_runs(runs: Sequence[BenchmarkRun], rows: Path) -> list[BenchmarkRun]:
    """Runs that have no row yet. Checks data and packages first.

    Raises:
        InputError: the rows cannot be read, or the packages of a method or the data of a run are missing.
    """
    done = set(keys_of(read_rows(rows)))
    pending = [run for run in runs if run.key not in done]
    for method in sorted({run.entry.method for run in pending}):
        require_method(method)
    for run in pending:
        data = run.config.input.data
        if run.entry.simulation is None and data != "digits" and not Path(data).exists():
            raise InputError(f"There is no file {data} for entry '{run.entry.name}'; name its folder with --data-dir.")
    return pending


def run_benchmark(
    runs: Sequence[BenchmarkRun],
    rows: Path,
    options: RunOptions,
    workers: int,
    on_end: Callable[[BenchmarkRun, Figures | Failure], None],
) -> int:
    """Do the runs and append a row as each ends; one that fails does not end the others.

    Args:
        workers: runs at a time; several run in processes of their own.
        on_end: called after every run.

    Returns:
        Number of failed runs.

    Raises:
        InputError: a row cannot be written.
    """
    failed = 0
    with contextlib.closing(_results(runs, options, workers)) as results:
        for run, result in results:
            if isinstance(result, Failure):
                failed += 1
            else:
                append_row(rows, result)
            on_end(run, result)
    return failed


def _results(
    runs: Sequence[BenchmarkRun], options: RunOptions, workers: int
) -> Generator[tuple[BenchmarkRun, Figures | Failure], None, None]:
    if workers == 1:
        for run in runs:
            yield run, _attempt(run, options)
        return
    # Fresh processes: a fork would inherit threads in the middle of their work.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    completed = False
    try:
        futures = {pool.submit(_attempt, run, options): run for run in runs}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenExecutor:
                raise TrainingError("A process of the benchmark died, of too little memory perhaps.") from None
        completed = True
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=completed, cancel_futures=True)
        if not completed:
            for process in processes:
                process.terminate()


def _attempt(run: BenchmarkRun, options: RunOptions) -> Figures | Failure:
    try:
        return execute(run, options)
    except (InputError, TrainingError) as error:
        return str(error)
