"""A run goes on by itself after a worker is lost, and ends as if nothing had happened."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import test_engines
import torch
import torch.distributed as dist
from processes import workers_of
from ray.exceptions import ActorDiedError, OutOfMemoryError
from test_engines import config_of, plan_of

from cplmix_ray.distributed.engines import train_in_process
from cplmix_ray.distributed.failure_causes import error_for, is_reproducible
from cplmix_ray.distributed.restarts import train_with_restarts
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.training.events import Event, Logged, Restarted, Snapshot
from cplmix_ray.training.loop import Start
from cplmix_ray.utils.errors import InputError, NonFiniteError, TrainingError, WorkerLostError

data = test_engines.data
LAYOUT = plan_of((0,), (1,))
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


def long_config(max_steps: int = 400, **placement) -> CplMixVAEConfig:
    config = config_of(2)
    training = {"max_steps": max_steps, "checkpoint_every": 40, "evaluate_every": max_steps, "log_every": 10}
    return config.model_copy(
        update={
            "training": config.training.model_copy(update=training),
            "placement": config.placement.model_copy(update=placement),
        }
    )


def run(config, data, kill_at=None, start=None, events=None) -> list[Event]:
    """Events of a run whose second worker is killed once the driver has the snapshot of a step."""
    events = [] if events is None else events
    for event in train_with_restarts(LAYOUT, config, data.training, start or Start()):
        events.append(event)
        if isinstance(event, Snapshot) and event.step == kill_at:
            os.kill(workers_of(os.getpid(), "ray::TrainingWorker")[1], signal.SIGKILL)
            kill_at = None
    return events


def assert_bitwise(one: Event, other: Event) -> None:
    assert one.step == other.step and one.parts.keys() == other.parts.keys()
    for arm, tensors in one.parts.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other.parts[arm][name]), (arm, name)


def await_free(ray_cluster, cpus: float) -> None:
    for _ in range(100):
        if ray_cluster.available_resources().get("CPU", 0) == cpus:
            return
        time.sleep(0.1)
    raise AssertionError(f"{ray_cluster.available_resources()}")


def test_a_killed_worker_is_replaced_and_the_end_is_bitwise_the_same(ray_cluster, data):
    await_free(ray_cluster, 3)
    killed, whole = run(long_config(200), data, kill_at=80), run(long_config(200), data)
    (restarted,) = [e for e in killed if isinstance(e, Restarted)]
    at = killed.index(restarted)
    assert restarted.step == [e for e in killed[:at] if isinstance(e, Snapshot)][-1].step >= 80
    assert re.search(r"\barm [01]\b", restarted.reason)
    assert next(e for e in killed[at:] if isinstance(e, Logged)).step == restarted.step + 10
    assert_bitwise(killed[-1], whole[-1])
    await_free(ray_cluster, 3)


def test_without_failures_allowed_the_run_ends_with_a_sentence(ray_cluster, data):
    with pytest.raises(TrainingError, match=r"\barm [01]\b.*--max-failures 0\b.*--resume") as caught:
        run(long_config(max_failures=0), data, kill_at=80)
    assert "\n" not in str(caught.value)
    await_free(ray_cluster, 3)


def test_an_error_that_would_repeat_is_not_tried_again(ray_cluster, data):
    start = list(train_in_process(plan_of((0, 1)), config_of(2), data.training, Start()))[-1]
    start.parts["arm-1"]["network/output.weight"][:] = float("nan")
    told = []
    with pytest.raises(NonFiniteError, match=r"reconstruction of arm 1\b.* step 12\b"):
        run(long_config(), data, start=Start(start.step, start.parts), events=told)
    assert told == []
    await_free(ray_cluster, 3)


GLOO = RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection reset by peer")


@pytest.mark.parametrize(
    ("error", "repeats"),
    [
        (GLOO, False),
        (dist.DistBackendError("NCCL watchdog"), False),
        (ActorDiedError(), False),
        (OutOfMemoryError("memory monitor"), False),
        (ConnectionResetError(), False),
        (torch.AcceleratorError("unspecified launch failure"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (NonFiniteError("coupling", 0, 3), True),
        (InputError("no"), True),
        (RuntimeError("size mismatch"), True),
        (KeyError("network/output.weight"), True),
    ],
    ids=lambda item: type(item).__name__ if isinstance(item, Exception) else str(item),
)
def test_what_would_repeat(error, repeats):
    assert is_reproducible(error) is repeats


@pytest.mark.parametrize(
    ("found", "kind", "words"),
    [
        ({0: GLOO, 1: ActorDiedError()}, WorkerLostError, r"\barm 1\b.*\bActorDiedError\b"),
        ({0: GLOO}, WorkerLostError, r"\barm 1\b.*\bRuntimeError\b"),
        ({0: GLOO, 1: GLOO}, WorkerLostError, r"\barm 0, 1\b"),
        ({0: GLOO, 1: KeyError("w")}, TrainingError, r"\barm 1\b.*\bKeyError: 'w'"),
        (
            {0: NonFiniteError("coupling", None, 3), 1: NonFiniteError("entropy", 1, 3)},
            NonFiniteError,
            "entropy of arm 1",
        ),
        ({0: GLOO, 1: InputError("Too few.")}, InputError, "Too few."),
    ],
    ids=["told", "silent", "link", "program", "own arm", "input"],
)
def test_the_most_telling_error_is_the_one_that_is_raised(found, kind, words):
    error = error_for(found, plan_of((0,), (1,)))
    assert type(error) is kind and re.search(words, str(error))


@pytest.mark.parametrize(
    ("found", "silent", "words"),
    [
        ({}, {1: 4.2}, r"\barm 1\b.* 4 s\b"),
        ({0: GLOO, 2: GLOO}, {1: 3.0}, r"\barm 1\b.* 3 s\b"),
        ({2: GLOO}, {1: 3.0}, r"\barm 1\b.* 3 s\b"),
        ({0: ActorDiedError()}, {2: 3.0}, r"\barm 0, 2\b.*\bActorDiedError\b"),
        ({0: GLOO}, {}, r"\barm 1, 2\b.*\bRuntimeError\b"),
    ],
    ids=["silence alone", "all others tell", "one other tells", "one dead, one stopped", "all live"],
)
def test_of_three_workers_the_one_that_is_silent_is_named(found, silent, words):
    error = error_for(found, plan_of((0,), (1,), (2,)), silent, 123)
    assert type(error) is WorkerLostError and re.search(words, str(error)) and error.reached == 123
    assert pickle.loads(pickle.dumps(error)).reached == 123


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [3, 2], ids=["a spare node", "no spare node"])
def test_a_killed_node_is_survived(nodes, fault_row):
    """Ray's own cluster of several nodes on this machine, in a process of its own.

    Without a spare node the arms are packed from the loss on. Their numbers then differ by rounding, which training
    makes larger: after 40 more steps posteriors are within 3e-6 and after 80 within 1e-5; after 160 they are within
    3e-5 on some processors and 0.07 apart on others.
    """
    script, steps = Path(__file__).parent / "node_loss.py", 400 if nodes == 3 else 120
    command = [sys.executable, script, str(nodes), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert seen["restarts"] == 1 and seen["from_step"] >= 80
    assert seen["dead_node"] in seen["nodes_before"] and seen["dead_node"] not in seen["nodes_after"]
    assert len(seen["nodes_before"]) == 2
    if nodes == 3:
        assert len(seen["nodes_after"]) == 2 and seen["moved"] == []
        assert seen["bitwise"]
    else:
        assert len(seen["nodes_after"]) == 1 and "0+1" in seen["moved"][0]
    assert seen["posterior_difference"] < 1e-3 and seen["same_categories"]
    made = "a node of a Ray of several nodes on one machine is removed"
    happened = "goes on on another node; weights bitwise" if nodes == 3 else "arms packed on the node that is left"
    fault_row("machine", made, 1, happened, None, None)
