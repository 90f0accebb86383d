"""The master test: where the arms run makes no difference to what they compute."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from cplmix_ray.config import Placement
from cplmix_ray.config.files import parse_config
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.data.io.read import read_source
from cplmix_ray.distributed.actors import train_on_actors
from cplmix_ray.distributed.engines import train_in_process
from cplmix_ray.distributed.plan import Devices, Plan, make_plan
from cplmix_ray.distributed.ray_init import cluster_devices
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.models.resolve import resolve_settings
from cplmix_ray.training.events import Evaluated, Logged, Snapshot
from cplmix_ray.training.loop import Start
from cplmix_ray.utils.errors import InputError, NonFiniteError, TrainingError

STEPS = 12
LINEAR = {"decoder": "linear", "reconstruct": "cell", "likelihood": "gaussian"}


def config_of(n_arms: int, **model) -> CplMixVAEConfig:
    return parse_config(
        {
            "model": {"n_arms": n_arms, "hidden": [24], "bottleneck": 8, "input_dropout": 0.1, **model},
            "training": {"max_steps": STEPS, "batch_size": 64, "log_every": 1, "evaluate_every": 6, "clip": 500.0},
            "seed": 3,
        }
    )


@pytest.fixture(scope="module")
def data():
    return build_dataset(read_source("digits"), config_of(2))


def plan_of(*workers: tuple[int, ...]) -> Plan:
    return Plan("ray", workers, False, "")


def run(config, data, *workers, start=None):
    """Losses of every step, posteriors of the validation cells, and the last snapshot."""
    start = start or Start()
    train = train_in_process if len(workers) == 1 else train_on_actors
    return sorted_out(list(train(plan_of(*workers), config, data.training, start)))


def sorted_out(events):
    logged = [e for e in events if isinstance(e, Logged)]
    terms = {
        name: np.array([e.terms[name] for e in logged])
        for name in ("reconstruction", "kl_state", "entropy", "gradient")
    }
    terms["distance"] = np.array([[e.shared["distance"]] for e in logged])
    return terms, [e for e in events if isinstance(e, Evaluated)], [e for e in events if isinstance(e, Snapshot)]


def assert_same_run(one, other):
    (terms, evaluated, snapshots), (terms_b, evaluated_b, snapshots_b) = one, other
    for name in terms:
        np.testing.assert_allclose(terms[name], terms_b[name], rtol=1e-4, atol=1e-5, err_msg=name)
    for a, b in zip(evaluated, evaluated_b, strict=True):
        assert a.step == b.step
        np.testing.assert_array_equal(a.outputs["log_q_ank"].argmax(-1), b.outputs["log_q_ank"].argmax(-1))
        np.testing.assert_allclose(a.outputs["log_q_ank"], b.outputs["log_q_ank"], rtol=1e-4, atol=1e-4)
    assert snapshots[-1].parts.keys() == snapshots_b[-1].parts.keys()
    for arm, tensors in snapshots[-1].parts.items():
        assert tensors.keys() == snapshots_b[-1].parts[arm].keys()


@pytest.mark.parametrize(
    ("n_arms", "layout", "model"),
    [
        (2, [(0,), (1,)], {}),
        (4, [(0, 1), (2, 3)], {}),
        pytest.param(3, [(0, 1), (2,)], {}, marks=pytest.mark.slow),
        pytest.param(2, [(0,), (1,)], {"shared_parameters": True}, marks=pytest.mark.slow),
        pytest.param(
            2, [(0,), (1,)], {"state_given_category": False, "likelihood": "gaussian"}, marks=pytest.mark.slow
        ),
        pytest.param(2, [(0,), (1,)], LINEAR, marks=pytest.mark.slow),
    ],
    ids=["2 actors", "2 actors of 2", "uneven", "shared weights", "switches", "linear decoder"],
)
def test_actors_equal_packed_step_by_step(ray_cluster, data, n_arms, layout, model):
    config = config_of(n_arms, **model)
    packed = run(config, data, tuple(range(n_arms)))
    assert_same_run(packed, run(config, data, *layout))


@pytest.mark.slow
@pytest.mark.parametrize("model", [{}, LINEAR], ids=["network", "linear decoder"])
def test_actors_equal_packed_with_a_batch_key(ray_cluster, model):
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1.0, 3.0, (4, 30))[np.arange(200) % 4]).astype(np.float32)
    adata = anndata.AnnData(counts, obs=pd.DataFrame({"batch": rng.choice(["x", "y", "z"], 200)}).rename(index=str))
    config = config_of(2, n_categories=4, **model)
    config = config.with_settings(input={"batch_key": "batch"}, copies={"copies": ("auto",)})
    data = build_dataset(source_from_anndata(adata), config)
    assert set(data.training.covariates) == {"batch"}
    config = resolve_settings(config, data.training)
    assert_same_run(run(config, data, (0, 1)), run(config, data, (0,), (1,)))


@pytest.mark.slow
def test_final_assignments_do_not_depend_on_the_layout(ray_cluster, data):
    config = config_of(2)

    def assignments(*workers):
        parts = run(config, data, *workers)[2][-1].parts
        model = TrainedModel.from_parts(config, data.training.preparations, parts, STEPS)
        return model.infer(data.training, ["probs_nk"])["probs_nk"].argmax(axis=1)

    np.testing.assert_array_equal(assignments((0, 1)), assignments((0,), (1,)))


@pytest.mark.parametrize("model", [{}, LINEAR], ids=["network", "linear decoder"])
def test_packed_run_is_bitwise_reproducible_and_resumes_bitwise(data, model):
    config = config_of(3, **model)
    half = config.model_copy(update={"training": config.training.model_copy(update={"max_steps": STEPS // 2})})
    one, other = (run(config, data, (0, 1, 2)) for _ in range(2))
    middle = run(half, data, (0, 1, 2))[2][-1]
    resumed = run(config, data, (0, 1, 2), start=Start(middle.step, middle.parts))
    for arm, tensors in one[2][-1].parts.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other[2][-1].parts[arm][name]), name
            assert torch.equal(tensor, resumed[2][-1].parts[arm][name]), name


def test_another_seed_gives_another_run(data):
    config = config_of(2)
    other = config.model_copy(update={"seed": 4})
    assert not np.allclose(run(config, data, (0, 1))[0]["distance"], run(other, data, (0, 1))[0]["distance"])


@pytest.mark.slow
def test_a_run_on_actors_goes_on_packed_and_back(ray_cluster, data):
    """A checkpoint does not know the layout."""
    config = config_of(2)
    half = config.model_copy(update={"training": config.training.model_copy(update={"max_steps": STEPS // 2})})
    whole = run(config, data, (0, 1))
    for first, second in ([((0,), (1,)), ((0, 1),)], [((0, 1),), ((0,), (1,))]):
        middle = run(half, data, *first)[2][-1]
        rest = run(config, data, *second, start=Start(middle.step, middle.parts))
        np.testing.assert_allclose(rest[0]["reconstruction"], whole[0]["reconstruction"][STEPS // 2 :], rtol=1e-4)
        np.testing.assert_allclose(rest[0]["distance"], whole[0]["distance"][STEPS // 2 :], rtol=1e-4, atol=1e-5)


def test_a_term_that_is_not_finite_is_named_with_arm_and_step(ray_cluster, data):
    """One arm's weight is poisoned; the driver hears of that arm, not of the peers that it took along."""
    config = config_of(2)
    snapshot = run(config, data, (0, 1))[2][-1]
    snapshot.parts["arm-1"]["network/output.weight"][:] = float("nan")
    longer = config.model_copy(update={"training": config.training.model_copy(update={"max_steps": STEPS + 5})})
    for layout in ([(0, 1)], [(0,), (1,)]):
        with pytest.raises(NonFiniteError, match=rf"reconstruction of arm 1\b.* step {STEPS}\b"):
            run(longer, data, *layout, start=Start(STEPS, snapshot.parts))


def test_a_failed_worker_ends_the_run_and_gives_its_devices_back(ray_cluster, data):
    config = config_of(2)
    before = ray_cluster.cluster_resources()["CPU"]  # what an earlier test held may be on its way back still
    broken = Start(0, {0: {}, 1: {}})  # snapshots without their tensors
    with pytest.raises(TrainingError, match=r"arm [01]\b"):
        run(config, data, (0,), (1,), start=broken)
    import time

    for _ in range(100):
        if ray_cluster.available_resources().get("CPU", 0) == before:
            break
        time.sleep(0.1)
    assert ray_cluster.available_resources()["CPU"] == before


def test_more_workers_than_the_cluster_has_is_one_sentence(ray_cluster, data):
    with pytest.raises(InputError, match=r"\b5 CPU cores.*\b3\b"):
        run(config_of(5), data, *[(arm,) for arm in range(5)])


@pytest.mark.parametrize(
    ("settings", "n_arms", "devices", "engine", "workers"),
    [
        ({}, 1, (0, 8), "local", [(0,)]),
        ({}, 2, (0, 1), "local", [(0, 1)]),
        ({}, 2, (0, 2), "ray", [(0,), (1,)]),
        ({}, 4, (0, 2), "ray", [(0, 1), (2, 3)]),
        ({}, 5, (0, 2), "ray", [(0, 1, 2), (3, 4)]),
        ({}, 3, (4, 16), "ray", [(0,), (1,), (2,)]),
        ({}, 2, (1, 16), "local", [(0, 1)]),
        ({"device": "cpu"}, 2, (1, 16), "ray", [(0,), (1,)]),
        ({"engine": "local"}, 4, (4, 16), "local", [(0, 1, 2, 3)]),
        ({"engine": "ray", "arms_per_worker": 2}, 3, (0, 2), "ray", [(0, 1), (2,)]),
        ({"engine": "ray"}, 1, (0, 2), "ray", [(0,)]),
        ({"arms_per_worker": 2}, 2, (0, 2), "ray", [(0, 1)]),
        ({"engine": "ray_train"}, 4, (0, 2), "ray_train", [(0, 1), (2, 3)]),
        ({"engine": "ray_train"}, 1, (0, 1), "ray_train", [(0,)]),
    ],
)
def test_auto_spreads_arms_over_devices(settings, n_arms, devices, engine, workers):
    placement = parse_config({"placement": settings}).placement
    plan = make_plan(placement, n_arms, Devices(*devices, "this machine"))
    assert (plan.engine, list(plan.workers)) == (engine, workers)
    assert plan.gpu == (devices[0] > 0 and settings.get("device") != "cpu")
    assert engine in plan.reason


def test_a_cluster_has_what_it_has_or_what_it_grows_to(ray_cluster):
    assert cluster_devices(Placement()).cpus == 3
    assert cluster_devices(Placement(device="cpu", cluster_grows_to=8)).cpus == 8
    assert cluster_devices(Placement(device="cpu", cluster_grows_to=2)).cpus == 3
    assert cluster_devices(Placement(device="cuda", cluster_grows_to=8)).gpus == 8
    with pytest.raises(InputError, match=r"\b3 CPU cores.*--cluster-grows-to"):
        make_plan(Placement(engine="ray", arms_per_worker=1), 4, cluster_devices(Placement()))


def test_a_shortfall_names_what_is_there_and_the_remedy():
    placement = parse_config({"placement": {"engine": "ray", "arms_per_worker": 1}}).placement
    with pytest.raises(InputError, match=r"\b6 CPU cores.*\b4 CPU cores.*--arms-per-worker\b.*\b2\b"):
        make_plan(placement, 6, Devices(0, 4, "this machine"))
    cuda = parse_config({"placement": {"device": "cuda"}}).placement
    with pytest.raises(InputError, match=r"--device cuda.*GPU|GPU.*--device cuda"):
        make_plan(cuda, 2, Devices(0, 4, "this machine"))
