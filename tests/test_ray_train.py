"""The loop under Ray Train computes what it computes on plain actors, and Ray Train brings it back after a loss."""

import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest
import test_engines
import test_restarts
import torch
from processes import workers_of
from test_engines import config_of, plan_of
from test_restarts import LAYOUT, assert_bitwise, await_free, long_config

from cplmix_ray.distributed.engines import train_in_process
from cplmix_ray.distributed.ray_train.launch import train_on_ray_train, train_storage
from cplmix_ray.distributed.ray_train.worker import read_parts, write_part
from cplmix_ray.training.events import Event, Logged, Restarted, Snapshot, WorkersLost
from cplmix_ray.training.loop import Start
from cplmix_ray.utils.errors import InputError, NonFiniteError, TrainingError

data = test_engines.data
# Ray Train carries Ray Data along, which warns of settings of its own.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data")


def run(config, data, plan=LAYOUT, start=None, kill_at=None, how=signal.SIGKILL, rank=None, times=None) -> list[Event]:
    """Events of a run of which a worker, of any rank or a certain one, is killed once the driver has the snapshot of a
    step."""
    events = []
    for event in train_on_ray_train(plan, config, data.training, start or Start()):
        events.append(event)
        if times is not None:
            times.append(time.monotonic())
        if isinstance(event, Snapshot) and event.step == kill_at:
            pids = workers_of(os.getpid(), "ray::RayTrainWorker")
            os.kill(pids[-1] if rank is None else next(pid for pid in pids if is_first(pid) == (rank == 0)), how)
            kill_at = None
    return events


def is_first(pid: int) -> bool:
    """Whether this is the first of two workers, where they all meet: only that one has a link to itself."""
    links = psutil.Process(pid).net_connections()
    own = {link.laddr for link in links if link.raddr}
    return any(link.raddr in own for link in links if link.raddr)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("rank", [1])
def test_a_worker_that_stands_still_is_named_and_replaced(ray_cluster, data, fault_row, rank):
    await_free(ray_cluster, 3)
    times: list[float] = []
    config, patience = long_config(240, collective_timeout=6.0), 6.0
    stopped = run(config, data, kill_at=80, how=signal.SIGSTOP, rank=rank, times=times)
    (restarted,) = [e for e in stopped if isinstance(e, Restarted)]
    assert f"arm {rank} " in restarted.reason and "for 4 s" in restarted.reason
    assert restarted.step <= 80 <= restarted.reached
    noticed, at = next(i for i, e in enumerate(stopped) if isinstance(e, WorkersLost)), stopped.index(restarted)
    assert stopped[noticed].reason == restarted.reason
    hit = next(i for i, e in enumerate(stopped) if isinstance(e, Snapshot) and e.step == 80)
    assert times[noticed] - times[hit] < patience + 3
    assert_bitwise(stopped[-1], test_restarts.run(config, data)[-1])
    await_free(ray_cluster, 3)
    fault_row(
        "arm, Ray Train",
        "SIGSTOP",
        1,
        f"arm {rank} named",
        restarted.reached - restarted.step,
        times[at + 1] - times[hit],
    )


@pytest.mark.slow
def test_two_workers_equal_two_actors_bitwise_and_leave_nothing(ray_cluster, data, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    await_free(ray_cluster, 3)
    config = config_of(2)
    events = run(config, data)
    actors = test_restarts.run(config, data)
    assert [type(e) for e in events] == [type(e) for e in actors]
    for one, other in zip(events, actors, strict=True):
        if isinstance(one, Logged):
            assert (one.step, one.terms, one.shared) == (other.step, other.terms, other.shared)
    assert_bitwise(events[-1], actors[-1])
    assert not (tmp_path / "ray_results").exists()
    assert list(tmp_path.glob("cplmix-*")) == []
    await_free(ray_cluster, 3)


@pytest.mark.slow
def test_a_term_that_is_not_finite_ends_the_run_as_itself(ray_cluster, data):
    start = list(train_in_process(plan_of((0, 1)), config_of(2), data.training, Start()))[-1]
    start.parts["arm-1"]["network/output.weight"][:] = float("nan")
    with pytest.raises(NonFiniteError, match=r"reconstruction of arm 1\b.* step 12\b"):
        run(long_config(), data, start=Start(start.step, start.parts))
    await_free(ray_cluster, 3)


@pytest.mark.slow
def test_two_workers_of_two_arms_equal_packed(ray_cluster, data):
    config = config_of(4)
    events = run(config, data, plan_of((0, 1), (2, 3)))
    test_engines.assert_same_run(test_engines.sorted_out(events), test_engines.run(config, data, tuple(range(4))))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_killed_worker_is_replaced_and_the_end_is_bitwise_the_same(ray_cluster, data, tmp_path):
    await_free(ray_cluster, 3)
    killed = run(long_config(train_storage=str(tmp_path)), data, kill_at=200)
    (restarted,) = [e for e in killed if isinstance(e, Restarted)]
    # Ray Train learns of a checkpoint when it next looks, so it may be one or two behind the driver.
    assert restarted.step >= 80 and re.search(r"\barm [01]\b", restarted.reason)
    after = killed[killed.index(restarted) :]
    assert next(e for e in after if isinstance(e, Logged)).step == restarted.step + 10
    assert_bitwise(killed[-1], test_restarts.run(long_config(), data)[-1])
    checkpoints = sorted(path for path in tmp_path.glob("cplmix-*/checkpoint_*") if path.is_dir())
    assert not list(tmp_path.rglob("*.p*kl*"))
    assert read_parts(checkpoints[-1], NAMES[:2]).step == 400
    await_free(ray_cluster, 3)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_without_failures_allowed_the_run_ends_with_a_sentence(ray_cluster, data):
    with pytest.raises(TrainingError, match=r"\barm [01]\b.*--max-failures 0\b.*--resume") as caught:
        run(long_config(max_failures=0), data, kill_at=80)
    assert "\n" not in str(caught.value)
    await_free(ray_cluster, 3)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_meet_where_those_of_other_machines_could(ray_cluster, data):
    events = train_on_ray_train(LAYOUT, long_config(max_steps=100_000), data.training, Start())
    next(events)
    here = ray_cluster.util.get_node_ip_address()
    one, other = (psutil.Process(pid).net_connections() for pid in workers_of(os.getpid(), "ray::RayTrainWorker"))
    ends = {c.laddr for c in other}
    between = [c for c in one if c.raddr and c.raddr in ends]
    events.close()
    assert between and all(c.laddr.ip.removeprefix("::ffff:") == here for c in between)
    await_free(ray_cluster, 3)


@pytest.mark.slow
def test_a_run_that_the_driver_gives_up_gives_everything_back(ray_cluster, data):
    events = train_on_ray_train(LAYOUT, long_config(max_steps=100_000), data.training, Start())
    assert isinstance(next(events), Logged)
    events.close()
    await_free(ray_cluster, 3)


NAMES = ["arm-0", "arm-1", "arm-2"]


def parts(*layout: tuple[int, ...], step: int = 7) -> list[Snapshot]:
    return [
        Snapshot(step, {f"arm-{arm}": {"network/w": torch.full((2,), float(arm))} for arm in arms}) for arms in layout
    ]


@pytest.mark.parametrize("layout", [[(0,), (1,), (2,)], [(0, 1), (2,)], [(0, 1, 2)]], ids=str)
def test_parts_of_any_layout_make_one_checkpoint(tmp_path, layout):
    for rank, part in enumerate(parts(*layout)):
        write_part(tmp_path, part, rank)
    start = read_parts(tmp_path, NAMES)
    assert start.step == 7 and sorted(start.parts) == NAMES
    assert all(bool((start.parts[f"arm-{arm}"]["network/w"] == arm).all()) for arm in range(3))


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    for rank, part in enumerate((*parts((0,)), *parts((1,), step=8))):
        write_part(tmp_path, part, rank)
    for n_arms in (2, 3):
        with pytest.raises(TrainingError, match="damaged"):
            read_parts(tmp_path, NAMES[:n_arms])


def test_storage_is_asked_for_where_machines_do_not_share_a_folder(monkeypatch, tmp_path):
    def nodes(*addresses):
        monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "NodeManagerAddress": a} for a in addresses])

    nodes("10.0.0.1", "10.0.0.1")
    with train_storage(None) as folder:
        assert Path(folder).is_dir()
    assert not Path(folder).exists()
    nodes("10.0.0.1", "10.0.0.2")
    with pytest.raises(InputError, match="--train-storage"), train_storage(None):
        pass
    with train_storage("s3://bucket/runs") as address:
        assert address == "s3://bucket/runs"
    with train_storage(str(tmp_path / "new" / "folder")) as folder:
        assert Path(folder).is_dir()
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="--train-storage"),
        train_storage(str(tmp_path / "file" / "x")),
    ):
        pass
