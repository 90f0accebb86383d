"""Workers that are killed, or stand still, at any moment: the run names them, goes on, and holds nothing of theirs."""

import contextlib
import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import ray
import test_engines
from processes import workers_of
from ray.exceptions import RayError
from test_engines import plan_of
from test_restarts import assert_bitwise, await_free, long_config

from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.distributed import actors
from cplmix_ray.distributed.heartbeat import Heartbeat
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.distributed.restarts import train_with_restarts
from cplmix_ray.runs.run import run_training
from cplmix_ray.training.events import Logged, Restarted, Snapshot
from cplmix_ray.training.loop import Start
from cplmix_ray.utils.errors import TrainingError

data = test_engines.data
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


class Known(Heartbeat):
    """The same, and the test knows which process holds which arms."""

    pids: dict[int, int]
    all_pids: set[int]

    def await_start(self) -> None:
        super().await_start()
        type(self).pids = {}
        for rank, worker in enumerate(self.workers):
            with contextlib.suppress(RayError):  # lost already, of which the run will hear by itself
                self.pids[rank] = ray.get(worker.pid.remote(), timeout=5)
        self.all_pids.update(self.pids.values())


@pytest.fixture
def known(monkeypatch) -> type[Known]:
    Known.pids, Known.all_pids = {}, set()
    monkeypatch.setattr(actors, "Heartbeat", Known)
    return Known


class Run:
    """A run whose events are kept with the times at which they came.

    Args:
        damage: called with every event and the run.
    """

    def __init__(self, plan, config, data, damage: Callable = lambda event, run: None):
        self.events, self.times, self.hits = [], [], []
        self.error: Exception | None = None
        try:
            for event in train_with_restarts(plan, config, data.training, Start()):
                self.events.append(event)
                self.times.append(time.monotonic())
                damage(event, self)
        except TrainingError as error:
            self.error = error

    def hit(self, pid: int, how: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
            self.hits.append(time.monotonic())

    def restarts(self) -> list[Restarted]:
        return [event for event in self.events if isinstance(event, Restarted)]

    def noticed(self) -> list[float]:
        """Seconds from each damage to the next restart."""
        at = [time for event, time in zip(self.events, self.times, strict=True) if isinstance(event, Restarted)]
        return [min((t - hit for t in at if t >= hit), default=float("inf")) for hit in self.hits]

    def recovered(self) -> list[float]:
        """Seconds from each damage to the first event after its restart."""
        after = []
        for event, _, time_ in self._with_next():
            if isinstance(event, Restarted):
                after.append(time_)
        return [min((t - hit for t in after if t >= hit), default=float("inf")) for hit in self.hits]

    def _with_next(self) -> Iterator:
        times = [*self.times[1:], float("inf")]
        return zip(self.events, self.times, times, strict=True)

    def lost(self) -> list[int]:
        return [event.reached - event.step for event in self.restarts() if event.reached is not None]


def at_snapshot(step: int, ranks: tuple[int, ...], how: signal.Signals) -> Callable:
    """Damage done once, when the driver has the snapshot of a step."""

    def damage(event, run) -> None:
        if isinstance(event, Snapshot) and event.step == step and not run.hits:
            for rank in ranks:
                run.hit(Known.pids[rank], how)

    return damage


def assert_gone(pids: set[int], within: float = 10.0) -> float:
    """Seconds until the processes were gone."""
    begun = time.monotonic()
    while time.monotonic() - begun < within:
        left = [pid for pid in pids if alive(pid)]
        if not left:
            return time.monotonic() - begun
        time.sleep(0.05)
    raise AssertionError(f"still there: {left}")


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_that_stands_still_is_named_and_nothing_is_held(ray_cluster, data, known, fault_row):
    """The frozen process can not answer its end either; it is gone all the same."""
    await_free(ray_cluster, 3)
    patience = 2.0
    frozen = at_snapshot(40, (1,), signal.SIGSTOP)
    ended = Run(plan_of((0,), (1,)), long_config(100_000, collective_timeout=patience, max_failures=0), data, frozen)
    seconds = time.monotonic() - ended.hits[0]
    assert re.search(r"\barm 1\b.*\bfor \d+ s\b", str(ended.error))
    assert "--max-failures 0" in str(ended.error)
    assert seconds < patience + 13
    assert_gone(known.all_pids)
    await_free(ray_cluster, 3)
    fault_row("arm stopped, no failure allowed", "SIGSTOP", 1, "ends; the arm is named; nothing is held", None, seconds)


THREE, PACKED, SHARED = plan_of((0,), (1,), (2,)), plan_of((0, 1)), Plan("ray", ((0,), (0,)), False, "", 2)
CASES = {
    "one of three stopped": (THREE, (1,), signal.SIGSTOP, "1"),
    "two of three killed": (THREE, (0, 2), signal.SIGKILL, "0, 2"),
    "stopped without peers": (PACKED, (0,), signal.SIGSTOP, "0+1"),
    "one share stopped": (SHARED, (1,), signal.SIGSTOP, "0 (share 1)"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "ranks", "how", "named"), CASES.values(), ids=CASES)
def test_the_right_arms_are_named_and_the_end_is_the_same(ray_cluster, data, known, fault_row, plan, ranks, how, named):
    await_free(ray_cluster, 3)
    patience = 4.0
    config = long_config(160, collective_timeout=patience, replicas=plan.replicas)
    config = config.model_copy(update={"model": config.model.model_copy(update={"n_arms": plan.n_units})})
    run, whole = Run(plan, config, data, at_snapshot(80, ranks, how)), Run(plan, config, data)
    (restarted,) = run.restarts()
    assert re.search(rf"\barm {re.escape(named)}(?![,\w])", restarted.reason), restarted.reason
    assert bool(re.search(r"\bfor \d+ s\b", restarted.reason)) == (how == signal.SIGSTOP)
    assert restarted.step <= 120 and restarted.step <= restarted.reached <= 160
    assert max(run.noticed()) < patience + 13
    assert_bitwise(run.events[-1], whole.events[-1])
    assert_gone(known.all_pids)
    await_free(ray_cluster, 3)
    made = f"{how.name} to {len(ranks)} of {len(plan.workers)} workers"
    fault_row("arms", made, 1, f"arm {named} named", max(run.lost()), max(run.recovered()))


@pytest.mark.slow
def test_a_step_that_takes_longer_than_silence_is_borne_is_waited_for(ray_cluster, data):
    config = long_config(3, collective_timeout=1.0)
    patience = config.placement.collective_timeout
    training = config.training.model_copy(update={"batch_size": 1400, "log_every": 1})
    for width in (1500, 3000, 6000):  # as wide as it takes for this machine to be slow
        await_free(ray_cluster, 3)
        model = config.model.model_copy(update={"hidden": [width, width]})
        run = Run(PACKED, config.model_copy(update={"training": training, "model": model}), data)
        assert run.error is None and run.restarts() == []
        first, *_, last = (event.seconds for event in run.events if isinstance(event, Logged))
        if last - first > 4 * patience:  # two steps, twice as long as they have to be
            break
    assert last - first > 2 * patience, "no step is long on this machine: make it wider"
    await_free(ray_cluster, 3)


@dataclass(frozen=True)
class Blow:
    """Damage after so many restarts; arms and step are known of workers that train."""

    restarts: int
    how: str
    arms: str | None = None
    step: int | None = None


class Storm:
    """Damage at random moments, while training goes on and while workers start, until there was enough of it."""

    def __init__(self, times: int, seed: int):
        self.left, self.random, self.at = times, random.Random(seed), 10
        self.blows: list[Blow] = []
        self.threads: list[threading.Thread] = []

    def __call__(self, event, run: Run) -> None:
        if isinstance(event, Restarted):
            self.at = event.step + self.random.randint(1, 40)
            if self.left and self.random.random() < 0.3:
                self.left -= 1
                self.threads.append(threading.Thread(target=self.strike_the_starting, args=(run,)))
                self.threads[-1].start()
        elif isinstance(event, Logged) and event.step >= self.at and self.left:
            self.left, self.at = self.left - 1, 10**9
            how = self.random.choice([signal.SIGKILL, signal.SIGSTOP])
            ranks = self.random.choice([(0,), (1,), (0, 1)])
            self.blows.append(Blow(len(run.restarts()), how.name, ", ".join(map(str, ranks)), event.step))
            for rank in ranks:
                run.hit(Known.pids[rank], how)

    def strike_the_starting(self, run: Run) -> None:
        for _ in range(300):
            if set(workers_of(os.getpid(), "ray::TrainingWorker")) - Known.all_pids:
                break
            time.sleep(0.1)
        time.sleep(self.random.uniform(0.0, 1.0))
        until = time.monotonic() + 60  # they may start anew for another reason
        while not (pids := workers_of(os.getpid(), "ray::TrainingWorker")) and time.monotonic() < until:
            time.sleep(0.1)
        how = self.random.choice([signal.SIGKILL, signal.SIGSTOP])
        self.blows.append(Blow(len(run.restarts()), how.name))
        run.hit(self.random.choice(pids), how)


@pytest.mark.slow
def test_random_damage_changes_nothing_in_the_end(ray_cluster, data, known, fault_row):
    """Ten times a random worker, or both, is killed or stopped; some of these while workers start again."""
    await_free(ray_cluster, 3)
    plan, storm, patience = plan_of((0,), (1,)), Storm(10, 5), 3.0
    config = long_config(440, collective_timeout=patience, max_failures=100)
    training = config.training.model_copy(update={"checkpoint_every": 20, "log_every": 1})
    config = config.model_copy(update={"training": training})
    run = Run(plan, config, data, storm)
    for thread in storm.threads:
        thread.join()
    whole = Run(plan, config, data)
    assert run.error is None and len(run.hits) >= 10
    assert 7 <= len(run.restarts()) <= len(run.hits)
    assert_bitwise(run.events[-1], whole.events[-1])
    named = 0
    for at, restarted in enumerate(run.restarts()):
        blows = [blow for blow in storm.blows if blow.restarts == at]
        if len(blows) != 1 or blows[0].arms is None:
            continue  # what comes while workers start may be met in several ways
        (blow,), named = blows, named + 1
        assert f"arm {blow.arms} " in restarted.reason, (blow, restarted)
        told = run.events[: run.events.index(restarted)]
        logged = [event.step for event in told if isinstance(event, Logged)][-1]
        assert restarted.step <= blow.step <= logged <= restarted.reached
        if blow.how == "SIGSTOP":  # all that was done has been told, but for a step of the worker that was ahead
            assert restarted.reached <= logged + 1
    assert named >= 4
    assert_gone(known.all_pids)
    await_free(ray_cluster, 3)
    print(storm.blows, "noticed", run.noticed(), "recovered", run.recovered(), "lost", run.lost())
    happened = f"{len(run.restarts())} restarts, the end is bitwise the same"
    fault_row("arms at random", "SIGKILL or SIGSTOP", len(storm.blows), happened, max(run.lost()), max(run.recovered()))


class Saboteur:
    """Shows nothing of a run, and kills a worker as it comes to certain steps."""

    def __init__(self, *steps: int):
        self.to_come, self.shown, self.said = list(steps), [0], []

    def say(self, line: str) -> None:
        self.said.append((line, self.shown[-1]))
        self.shown.append(0)

    def advance(self, step: int, figures: dict[str, float]) -> None:
        self.shown[-1] = max(step, self.shown[-1])
        if self.to_come and step >= self.to_come[0]:
            self.to_come.pop(0)
            os.kill(Known.pids[1], signal.SIGKILL)


@pytest.mark.slow
def test_the_metrics_count_restarts_and_the_steps_that_were_done_again(ray_cluster, data, known, tmp_path, fault_row):
    """The first loss comes before the first checkpoint, the second after it."""
    await_free(ray_cluster, 3)
    config = long_config(300, engine="ray", max_failures=2)
    training = config.training.model_copy(update={"checkpoint_every": 100, "log_every": 1})
    progress = Saboteur(20, 130)
    run_training(config.model_copy(update={"training": training}), data, RunFolder(tmp_path / "run"), progress)
    lost = [(line, reached) for line, reached in progress.said if "arm 1 " in line]
    found = [re.search(r"\bfrom step (\d+)\D+(\d+) steps\b", line) for line, _ in lost]
    assert [match[1] for match in found] == ["0", "100"]
    told = [int(match[2]) for match in found]
    shown = [lost[0][1], lost[1][1] - 100]
    # What was shown was done; when a worker was killed, some more was done and not shown yet.
    assert all(least <= steps <= least + 50 for least, steps in zip(shown, told, strict=True))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["restarts"] == 2 and metrics["lost_steps"] == sum(told) and metrics["steps"] == 300
    fault_row("arm, before and after a checkpoint", "SIGKILL", 2, "goes on from steps 0 and 100", max(told), None)
    await_free(ray_cluster, 3)
