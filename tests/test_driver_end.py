"""The end of the driver, in good order or not, leaves no process, and a checkpoint to go on from."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from processes import workers_of

from cplmix_ray.checkpoints.checkpoint import latest_checkpoint
from cplmix_ray.cli.exits import run_command
from cplmix_ray.distributed import worker_process

PATIENCE = 4


@contextlib.contextmanager
def training(out: Path) -> Iterator[subprocess.Popen]:
    """A run on two actors of a Ray of its own, which would take for ever."""
    line = "--preset published --engine ray --device cpu --n-arms 2 --hidden 16 --max-steps 1000000 "
    line += f"--checkpoint-every 50 --out {out} --evaluate-every 1000000 --collective-timeout {PATIENCE}"
    process = subprocess.Popen(
        [sys.executable, "-m", "cplmix_ray.train", *line.split()],
        env={**os.environ, "RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def await_steps(out: Path, steps: int, process: subprocess.Popen) -> int:
    """The step of the first checkpoint with at least so many steps."""
    for _ in range(1200):
        found, _ = latest_checkpoint(out / "checkpoints")
        if found is not None and found.step >= steps:
            return found.step
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError(f"no checkpoint of step {steps}")


def stop_driver_for_a_while(process: subprocess.Popen, out: Path) -> None:
    """Longer than the workers' silence is borne: it was the driver that did not listen."""
    step = await_steps(out, 0, process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(PATIENCE + 2)
    process.send_signal(signal.SIGCONT)
    await_steps(out, step + 200, process)


def stop_a_worker(process: subprocess.Popen, out: Path) -> None:
    os.kill(workers_of(process.pid, "ray::TrainingWorker")[0], signal.SIGSTOP)


def nothing(process: subprocess.Popen, out: Path) -> None:
    """The driver alone."""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("how", "before"),
    [(signal.SIGKILL, stop_a_worker), (signal.SIGINT, stop_driver_for_a_while), (signal.SIGTERM, nothing)],
    ids=["kill -9 while an arm is stopped", "Ctrl-C after a pause", "SIGTERM"],
)
def test_the_end_of_the_driver_is_the_end_of_all(tmp_path, fault_row, how: signal.Signals, before: Callable):
    out = tmp_path / "run"
    with training(out) as process:
        await_steps(out, 100, process)
        all_of_run = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
        # After a kill -9 two agents of Ray's, which hold nothing, look for its control for a minute, and then end.
        of_run = [pid for pid in all_of_run if how != signal.SIGKILL or "Agent" not in title_of(pid)]
        assert len(of_run) >= 5  # the driver, Ray's control and node, two arms
        before(process, out)
        process.send_signal(how)
        begun = time.monotonic()
        stdout, stderr = process.communicate(timeout=60)
        while any(alive(pid) for pid in of_run) and time.monotonic() - begun < 60:
            time.sleep(0.1)
        seconds = time.monotonic() - begun
        assert [pid for pid in of_run if alive(pid)] == []
    assert "lost" not in stdout and "Traceback" not in stderr
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 1
        said = stderr.strip().splitlines()
        assert len(said) == 1 and said[0].startswith("Interrupted; the newest checkpoint"), said
    checkpoint, wrong = latest_checkpoint(out / "checkpoints")
    assert checkpoint is not None and wrong == [] and checkpoint.step >= 100
    made = how.name if before is nothing else f"{how.name} after: {before.__name__.replace('_', ' ')}"
    fault_row("driver", made, 1, f"no process left after {seconds:.1f} s, checkpoint whole", None, None)


def title_of(pid: int) -> str:
    return " ".join(psutil.Process(pid).cmdline())


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


WORKER = """
import os, runpy, signal
runpy.run_path({worker_process!r})["end_with_parent"]()
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""
NODE = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_a_stopped_process_ends_with_the_one_that_started_it():
    """In a session of its own, so that the kernel does not wake it as the last of an orphaned group."""
    worker = WORKER.format(worker_process=str(Path(worker_process.__file__)))
    with subprocess.Popen([sys.executable, "-c", NODE, worker], stdout=subprocess.PIPE, text=True) as node:
        pid = int(node.stdout.readline())
        try:
            await_true(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
            node.kill()
            node.wait()
            await_true(lambda: not alive(pid))
        finally:
            node.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def await_true(condition: Callable[[], bool]) -> None:
    for _ in range(100):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come to be")


@pytest.mark.parametrize("ignores", [True, False], ids=["in the background", "in front"])
def test_termination_is_heeded_as_an_interruption(monkeypatch, capsys, ignores):
    """A shell lets the programs that it starts in the background ignore Ctrl-C; they must heed this all the same."""

    def command(words: list[str]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(sys, "argv", ["command"])
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN if ignores else signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as left:
            run_command(command)
        assert signal.getsignal(signal.SIGTERM) == before[1]
    finally:
        signal.signal(signal.SIGINT, before[0])
    assert left.value.code == 1
    assert capsys.readouterr().err.startswith("Interrupted; the newest checkpoint")
