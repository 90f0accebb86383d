"""Arms times replicas: a minibatch that is shared out among workers gives what one worker with all of it gives."""

import multiprocessing
import pickle
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_engines import STEPS, assert_same_run, config_of, sorted_out

from cplmix_ray.collectives.process_groups import ProcessGroups
from cplmix_ray.data.io.read import read_source
from cplmix_ray.distributed.actors import train_on_actors
from cplmix_ray.distributed.engines import train_in_process
from cplmix_ray.distributed.plan import Devices, Plan, make_plan
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.training.events import Logged, merge
from cplmix_ray.training.loop import Start, training_loop
from cplmix_ray.utils.errors import InputError, ShortfallError

CPU = torch.device("cpu")


def replicated(n_arms: int, replicas: int, more: dict | None = None, **model) -> CplMixVAEConfig:
    tree = config_of(n_arms).model_dump(mode="json")
    tree["placement"]["replicas"] = replicas
    for section, settings in {"model": model, **(more or {})}.items():
        tree[section].update(settings)
    return CplMixVAEConfig.model_validate(tree)


@pytest.fixture(scope="module")
def data():
    return build_dataset(read_source("digits"), config_of(2))


def told_by(events, config: CplMixVAEConfig):
    """What is compared; in a first stage nothing is reconstructed, and what it did shows in what comes after it."""
    first = config.alignment.align_steps
    return sorted_out([e for e in events if not isinstance(e, Logged) or e.step > first])


def packed(config, data, start=None):
    plan = Plan("local", (tuple(range(config.model.n_arms)),), False, "")
    return told_by(list(train_in_process(plan, config, data.training, start or Start())), config)


def one_worker(rank: int, world: int, port: int, config: CplMixVAEConfig, data, arms, answers) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, world, is_master=False, timeout=timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    peers = ProcessGroups.from_world(config.placement.replicas)
    answers.put((rank, pickle.dumps(list(training_loop(config, data, arms, CPU, Start(), peers)))))
    dist.destroy_process_group()


def on_processes(config: CplMixVAEConfig, data, workers: list[tuple[int, ...]]):
    """The run on processes that meet over gloo, with their events merged as an engine merges them."""
    context = multiprocessing.get_context("spawn")
    store = dist.TCPStore("127.0.0.1", 0, len(workers), is_master=True, wait_for_workers=False)
    answers = context.Queue()
    processes = [
        context.Process(target=one_worker, args=(r, len(workers), store.port, config, data.training, arms, answers))
        for r, arms in enumerate(workers)
    ]
    for process in processes:
        process.start()
    told = {rank: pickle.loads(events) for rank, events in (answers.get(timeout=60) for _ in workers)}
    for process in processes:
        process.join(30)
    return told_by([merge(events) for events in zip(*(told[r] for r in range(len(workers))), strict=True)], config)


AGREEMENT = {
    "objective": {"coupling": "agreement", "marginal": 1.0, "entropy": 0.0},
    "alignment": {"align_steps": 4},
}


LINEAR = {"likelihood": "gaussian", "decoder": "linear", "posterior": "softmax"}
"""Fitted to the cells at the end of the first stage, by every worker."""


@pytest.mark.parametrize(
    ("config", "workers"),
    [
        (replicated(2, 2, AGREEMENT, posterior="softmax", overcluster=2), [(0,), (0,), (1,), (1,)]),
        (replicated(2, 2, shared_parameters=True), [(0,), (0,), (1,), (1,)]),
        (replicated(3, 2), [(0, 1), (0, 1), (2,), (2,)]),
        (replicated(2, 2, AGREEMENT, **LINEAR), [(0,), (0,), (1,), (1,)]),
        (replicated(2, 1, AGREEMENT, **LINEAR, shared_parameters=True), [(0,), (1,)]),
    ],
    ids=["two stages", "shared weights", "uneven arms", "linear", "linear, shared weights"],
)
@pytest.mark.slow
def test_shares_on_processes_equal_one_process_step_by_step(data, config, workers):
    together, apart = packed(config, data), on_processes(config, data, workers)
    assert_same_run(together, apart)
    for arm, tensors in together[2][-1].parts.items():
        for name, tensor in tensors.items():
            if name.startswith("generators/"):
                assert torch.equal(tensor, apart[2][-1].parts[arm][name]), name


@pytest.mark.slow
def test_replicas_on_actors_equal_one_process_step_by_step(ray_cluster, data):
    config = replicated(2, 2)
    plan = Plan("ray", ((0, 1), (0, 1)), False, "", replicas=2)
    apart = told_by(list(train_on_actors(plan, config, data.training, Start())), config)
    assert_same_run(packed(config, data), apart)
    # What a checkpoint of theirs goes on to is what one process goes on to.
    middle = packed(replicated(2, 2, {"training": {"max_steps": STEPS // 2}}), data)[2][-1]
    rest = told_by(list(train_on_actors(plan, config, data.training, Start(middle.step, middle.parts))), config)
    whole = packed(config, data)[0]
    np.testing.assert_allclose(rest[0]["reconstruction"], whole["reconstruction"][STEPS // 2 :], rtol=1e-4)


def test_a_run_with_replicas_goes_on_to_the_last_bit(data):
    config = replicated(2, 2)
    middle = packed(replicated(2, 2, {"training": {"max_steps": STEPS // 2}}), data)[2][-1]
    whole, rest = packed(config, data)[2][-1], packed(config, data, Start(middle.step, middle.parts))[2][-1]
    assert {"generators/gumbel", "generators/gumbel/1"} <= set(whole.parts["arm-0"])
    for arm, tensors in whole.parts.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, rest.parts[arm][name]), name


def test_each_share_has_its_own_randomness_and_the_first_that_of_a_run_without_shares(data):
    alone, shared = (packed(replicated(1, replicas), data)[2][-1].parts["arm-0"] for replicas in (1, 2))
    assert not torch.equal(shared["generators/gumbel"], shared["generators/gumbel/1"])
    assert not torch.equal(alone["generators/gumbel"], shared["generators/gumbel"])  # it drew for twice as many cells


@pytest.mark.parametrize(
    ("settings", "n_arms", "cpus", "workers"),
    [
        ({"replicas": 2}, 2, 4, [(0,), (0,), (1,), (1,)]),
        ({"replicas": 2}, 4, 4, [(0, 1), (0, 1), (2, 3), (2, 3)]),
        ({"replicas": 2}, 1, 2, [(0,), (0,)]),
        ({"replicas": 3, "arms_per_worker": 2}, 2, 8, [(0, 1)] * 3),
        ({"replicas": 2, "engine": "local"}, 2, 1, [(0, 1)]),
    ],
)
def test_every_group_of_arms_has_as_many_workers_as_there_are_shares(settings, n_arms, cpus, workers):
    plan = make_plan(
        CplMixVAEConfig.model_validate({"placement": settings}).placement, n_arms, Devices(0, cpus, "this machine")
    )
    assert list(plan.workers) == workers
    assert plan.n_units == n_arms


def test_too_few_devices_for_the_shares_are_told():
    placement = CplMixVAEConfig.model_validate({"placement": {"engine": "ray", "replicas": 4}}).placement
    with pytest.raises(ShortfallError, match=r"4 workers to share each minibatch need 4 CPU cores.*lower --replicas"):
        make_plan(placement, 1, Devices(0, 2, "this machine"))


def test_a_minibatch_that_cannot_be_shared_out_evenly_is_told(data):
    with pytest.raises(InputError, match=r"64 cells.*--replicas 3"):
        packed(replicated(1, 3), data)
