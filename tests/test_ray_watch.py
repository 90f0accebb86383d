"""What a run says when the processes of Ray that it depends on end."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
import ray

from cplmix_ray.checkpoints.checkpoint import latest_checkpoint
from cplmix_ray.distributed import ray_watch


@pytest.fixture
def watched(monkeypatch):
    """A listening process, how to watch it, and what was said of its end."""
    monkeypatch.setattr(ray_watch, "_POLL_SECONDS", 0.02)
    server, stop, said = socket.create_server(("127.0.0.1", 0)), threading.Event(), []
    threads = []

    def watch(seconds: float) -> None:
        arguments = ("It", server.getsockname(), seconds, stop, said.append)
        threads.append(threading.Thread(target=ray_watch._watch, args=arguments))
        threads[0].start()

    yield server, watch, stop, said
    stop.set()
    server.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def said_within(said: list, seconds: float) -> list:
    until = time.monotonic() + seconds
    while not said and time.monotonic() < until:
        time.sleep(0.01)
    return said


def test_the_end_of_a_process_is_noticed_at_once(watched):
    server, watch, _, said = watched
    watch(0.0)
    connection, _ = server.accept()
    server.close()
    connection.close()
    assert said_within(said, 5) == ["It"]


def test_a_connection_that_is_closed_or_silent_is_no_end(watched):
    server, watch, _, said = watched
    watch(0.0)
    for _ in range(3):
        connection, _ = server.accept()
        connection.send(b"settings")
        connection.close()
    with closing(server.accept()[0]):
        assert not said_within(said, 0.2)


def test_a_process_that_comes_back_in_time_is_no_end(watched):
    server, watch, _, said = watched
    watch(30.0)
    connection, address = server.accept()[0], server.getsockname()
    server.close()
    connection.close()
    time.sleep(0.1)
    with socket.create_server(address) as again, closing(again.accept()[0]):
        assert not said_within(said, 0.1)


def test_an_end_after_the_run_is_not_reported(watched):
    server, watch, stop, said = watched
    watch(0.0)
    connection, _ = server.accept()
    stop.set()
    server.close()
    connection.close()
    assert not said_within(said, 0.2)


def test_the_process_ends_with_one_sentence_whatever_else_is_printed():
    code = (
        "import threading, time\n"
        "from cplmix_ray.distributed.ray_watch import end_process\n"
        "say = lambda: (print('from Ray', flush=True), 'step 7 is complete \\xe9')[1]\n"
        "threading.Thread(target=end_process, args=('It', say)).start()\n"
        "time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: It has ended; step 7 is complete \xe9.\n"


# With Ray


def begun(command: subprocess.Popen, sign: str) -> None:
    """Wait until a line of the command's output has a sign of training."""
    for line in command.stdout:
        if re.search(sign, line):
            return
    pytest.fail(command.stderr.read())


def saved(out: Path, pattern: str = "checkpoints/step-*") -> None:
    """Wait until there is a checkpoint."""
    until = time.monotonic() + 120
    while not list(out.glob(pattern)) and time.monotonic() < until:
        time.sleep(0.2)


def await_port(port: int) -> None:
    """Wait until a cluster listens."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection((ray.util.get_node_ip_address(), port)):
            return
        time.sleep(0.5)


def end_ray(parent: int, name: str, how: signal.Signals) -> float:
    """Signal the processes of a name among the descendants of one, and say when."""
    found = [each for each in psutil.Process(parent).children(recursive=True) if each.name() == name]
    assert found
    for each in found:
        each.send_signal(how)
    return time.monotonic()


def run_of(out, *options: str, module: str = "train") -> subprocess.Popen:
    command = [sys.executable, "-m", f"cplmix_ray.{module}", "--out", str(out), "--collective-timeout", "10"]
    options = ("--max-steps", "100000", "--checkpoint-every", "20", *options)
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_ended_well(run: subprocess.Popen, ended_at: float, *words: str) -> None:
    output, errors = run.communicate(timeout=60)
    assert time.monotonic() - ended_at < 30
    assert run.returncode == 1
    lines = errors.splitlines()
    assert len(lines) == 1 or (len(lines) == 2 and "core_worker" in lines[0]), (
        errors
    )  # Ray may log before it is noticed
    assert all(word in lines[-1] for word in words), errors
    assert "Raylet is terminated" not in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "ray_train"])
@pytest.mark.parametrize(("name", "called"), [("raylet", "raylet"), ("gcs_server", "control store")])
def test_a_run_whose_ray_ends_can_be_resumed(tmp_path, engine, name, called):
    out = tmp_path / "out"
    with run_of(out, "--engine", engine) as run:
        begun(run, r"^step .*left")
        saved(out)
        assert_ended_well(run, end_ray(run.pid, name, signal.SIGKILL), called, f"--resume --out {out}", "of step")
    step = max(int(path.name.removeprefix("step-")) for path in (out / "checkpoints").iterdir())
    command = [sys.executable, "-m", "cplmix_ray.train", "--resume", "--out", str(out), "--engine", "local"]
    done = subprocess.run([*command, "--max-steps", str(step + 5)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"step-{step:08d}" in done.stdout


@pytest.mark.slow
def test_a_search_whose_ray_ends_can_be_resumed(tmp_path):
    out = tmp_path / "out"
    with run_of(out, module="tune") as run:
        begun(run, "To watch")
        saved(out, "trials/*/*/checkpoints/step-*")
        assert_ended_well(run, end_ray(run.pid, "raylet", signal.SIGKILL), "raylet", f"--resume --out {out}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_run_on_a_cluster_that_is_stopped_can_be_resumed(tmp_path, name):
    """As ``ray stop`` does, which would end every Ray of this machine. Ray may end the driver before it can say so."""
    short = tempfile.mkdtemp(dir="/tmp")  # as paths of sockets must be
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port", str(port)]
    options = ["--num-cpus=2", "--include-dashboard=false", f"--temp-dir={short}"]
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    with subprocess.Popen(
        [*start, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as cluster:
        try:
            await_port(port)
            out = tmp_path / "out"
            with run_of(out, "--engine", "ray", "--ray-address", f"127.0.0.1:{port}") as run:
                begun(run, r"^step .*left")
                saved(out)
                end_ray(cluster.pid, name, signal.SIGTERM)
                _, errors = run.communicate(timeout=60)
            assert run.returncode == 1 and "Traceback" not in errors
            checkpoint, damaged = latest_checkpoint(out / "checkpoints")
            assert checkpoint is not None and not damaged
        finally:
            for each in psutil.Process(cluster.pid).children(recursive=True):
                each.kill()
            cluster.kill()
            shutil.rmtree(short, ignore_errors=True)
