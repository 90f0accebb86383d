"""Searches on a real Ray: what trials hold and give back, what they share, how they fail, stop, exchange and go on."""

import contextlib
import csv
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import torch
from bitwise import assert_bitwise
from disks import fill
from processes import trial_processes, workers_of
from search_driver import start_registered
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cplmix_ray.checkpoints.checkpoint import latest_checkpoint
from cplmix_ray.config import Placement
from cplmix_ray.config.files import load_config
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.data.io.read import read_source
from cplmix_ray.distributed.plan import Devices, make_plan
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.models.resolve import resolve_settings
from cplmix_ray.tuning import search
from cplmix_ray.tuning.exchanges import read_exchanges
from cplmix_ray.tuning.records import read_reports
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.tuning.space import config_at
from cplmix_ray.tuning.trial import trial_resources
from cplmix_ray.utils.errors import DiskError

RUN = {
    "model": {"hidden": [16], "bottleneck": 6, "n_categories": 4},
    "training": {"max_steps": 12, "batch_size": 64, "evaluate_every": 4, "checkpoint_every": 4},
    "copies": {"n_neighbours": 4, "neighbour_pcs": 8},
}


def spec_of(space: dict, **search) -> SearchConfig:
    return SearchConfig.model_validate({"run": RUN, "space": space, "search": search})


@pytest.fixture(scope="module")
def source():
    return read_source("digits")


def run_search(spec, source, path, show=lambda trials: None):
    """A search, or the rest of it where the folder holds one."""
    folder = SearchFolder(path)
    return search.run_search(spec, source, folder, show), folder


def wait_for_everything(ray, seconds=20.0):
    """All that the cluster has is free again."""

    def free() -> bool:
        has, free = ray.cluster_resources(), ray.available_resources()
        names = ("CPU", *(name for name in has if name.startswith("node:")))
        return all(abs(free.get(name, 0) - has[name]) < 1e-6 for name in names)

    return comes_true(free, seconds)


def comes_true(what, seconds=20.0):
    until = time.monotonic() + seconds
    while not (true := what()) and time.monotonic() < until:
        time.sleep(0.2)
    return true


def rows_of(folder) -> list[dict]:
    with open(folder.results, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(ray_cluster, source, tmp_path_factory):
    """A whole small search over A and lambda, two seeds each, that several tests look at."""
    out = tmp_path_factory.mktemp("search") / "out"
    held = []

    def show(trials):
        held.append(ray_cluster.cluster_resources()["CPU"] - ray_cluster.available_resources().get("CPU", 0))

    spec = spec_of({"model.n_arms": {"grid": [1, 2]}, "objective.lam": {"loguniform": [0.1, 10]}}, trials=1, seeds=2)
    findings, folder = run_search(spec, source, out, show=show)
    return spec, findings, folder, held


def test_every_trial_runs_all_its_seeds_and_its_score_is_their_mean(finished):
    _, findings, folder, _ = finished
    assert [t.status for t in findings.trials] == ["done", "done"]
    for row in rows_of(folder):
        seeds = [json.loads(folder.trial(row["trial"]).run(seed).metrics.read_text())["acc"] for seed in (0, 1)]
        assert float(row["score"]) == pytest.approx(np.mean(seeds))
        assert float(row["score_sd"]) == pytest.approx(np.std(seeds, ddof=1))
        assert row["scores"] == " ".join(f"{score:.4f}" for score in seeds)
    best = max(rows_of(folder), key=lambda row: float(row["score"]))
    assert findings.best.name == best["trial"]


def test_a_trial_is_the_run_that_train_would_make(finished, source):
    """Same settings and seed, packed in this process: the same categories."""
    spec, findings, folder, _ = finished
    from cplmix_ray.distributed.engines import train_in_process
    from cplmix_ray.distributed.plan import Plan
    from cplmix_ray.training.loop import Start

    trial = next(t for t in findings.trials if t.point["model.n_arms"] == 2)
    run = folder.trial(trial.name).run(1)
    config = load_config(run.config)
    data = build_dataset(source, config)
    assert config == resolve_settings(config_at(spec.run, trial.point, 1), data.training)
    *_, last = train_in_process(Plan("local", ((0, 1),), False, ""), config, data.training, Start())
    saved, wrong = latest_checkpoint(run.checkpoints)
    assert not wrong
    for arm, tensors in last.parts.items():
        for name, tensor in tensors.items():
            if name.startswith("network/"):
                torch.testing.assert_close(saved.parts[arm][name], tensor, rtol=1e-3, atol=1e-4)


def test_the_best_run_is_a_ready_model_with_its_cells(finished, source):
    import anndata

    _, findings, folder, _ = finished
    model = TrainedModel.load(folder.best)
    metrics = json.loads((folder.best / "metrics.json").read_text())
    cells = anndata.read_h5ad(folder.best / "result.h5ad")
    inferred = model.infer(model.prepare(source))
    assert cells.obs["cplmix_category"].astype(int).tolist() == inferred["probs_nk"].argmax(1).tolist()
    scores = [json.loads(folder.trial(findings.best.name).run(s).metrics.read_text())["acc"] for s in (0, 1)]
    assert metrics["acc"] == max(scores)
    assert metrics["seed"] == findings.seed == scores.index(max(scores))
    config = config_at(load_config(folder.spec), findings.best.point, findings.seed)
    assert model.config == resolve_settings(config, build_dataset(source, config).training)


def test_tensorboard_reads_plain_tags_and_hparams_of_every_trial(finished):
    from tensorboard.plugins.hparams import plugin_data_pb2

    _, findings, folder, _ = finished
    for trial in findings.trials:
        page = EventAccumulator(str(folder.tensorboard / trial.name)).Reload()
        stored = page.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        info = plugin_data_pb2.HParamsPluginData.FromString(stored).session_start_info
        assert info.hparams["objective.lam"].number_value == trial.point["objective.lam"]
        assert info.hparams["model.n_arms"].number_value == trial.point["model.n_arms"]
        assert info.hparams["status"].string_value == "done"
        assert page.Scalars("trial/score")[-1].value == pytest.approx(trial.report["score"])
        scalars = EventAccumulator(str(folder.tensorboard / trial.name / "seed-0")).Reload()
        assert {"loss/total", "consensus/acc", "arm0/reconstruction"} <= set(scalars.Tags()["scalars"])


def test_the_figure_is_a_picture(finished):
    _, _, folder, _ = finished
    assert folder.figure.read_bytes().startswith(b"\x89PNG")


def test_trials_hold_a_core_an_arm_and_give_everything_back(finished, ray_cluster):
    _, _, _, held = finished
    assert max(held) >= 2, "the trial with two arms held two cores"
    assert wait_for_everything(ray_cluster)


@pytest.mark.parametrize(("n_arms", "cores"), [(1, 1), (2, 2), (3, 3), (5, 3)])
def test_a_trial_asks_for_a_core_a_worker_and_a_seat_that_costs_none(ray_cluster, n_arms, cores):
    """Five arms on three cores are packed."""
    plan = make_plan(Placement(), n_arms, Devices(0, 3, "the cluster"))
    seat, *places = trial_resources(plan).bundles
    assert places == [{"CPU": 1.0}] * cores
    assert list(seat.values()) == [0.001]
    assert all(name.startswith("node:") for name in seat)


@pytest.mark.slow
def test_a_trial_that_the_scheduler_stops_returns_everything(ray_cluster, source, tmp_path):
    """Three numbers of arms on three cores, most trials stopped early: nothing waits for ever, nothing stays held."""
    space = {"model.n_arms": {"grid": [1, 2, 3]}, "training.lr": {"grid": [1e-2, 1e-7]}}
    spec = spec_of(space, scheduler="asha", grace_steps=4, reduction=2.0)
    findings, folder = run_search(spec, source, tmp_path / "out")
    statuses = [trial.status for trial in findings.trials]
    assert statuses.count("stopped") >= 2
    assert statuses.count("done") >= 1
    assert len(statuses) == 6
    for row in rows_of(folder):
        assert row["status"] == "done" or int(row["step"]) < 12
    assert wait_for_everything(ray_cluster), (ray_cluster.cluster_resources(), ray_cluster.available_resources())


def test_trials_share_the_cells_in_the_store(ray_cluster, source):
    """Sets of other seeds and neighbours share the values; what a reader gets is a view that it cannot write to."""
    from cplmix_ray.tuning.dataset_cache import dataset_cache

    config = SearchConfig.model_validate({"run": RUN, "space": {"model.n_arms": {"choice": [1]}}}).run
    with dataset_cache(source, build_dataset) as cache:
        one = cache.get(config)
        other = cache.get(config.model_copy(update={"seed": 1}))
        assert one.stored.values == other.stored.values
        assert one.stored.rest != other.stored.rest
        assert cache.get(config).stored == one.stored
        view = one.stored.fetch().matrix.block()
        assert not view.flags.writeable
        np.testing.assert_array_equal(view, build_dataset(source, config).training.matrix.block())


def test_a_dataset_actor_that_is_killed_starts_again_and_leaves_nothing_behind(ray_cluster, source):
    from cplmix_ray.tuning.dataset_cache import dataset_cache

    def held() -> float:
        return ray_cluster.cluster_resources()["object_store_memory"] - ray_cluster.available_resources().get(
            "object_store_memory", 0.0
        )

    def actors() -> list[int]:
        return workers_of(os.getpid(), "ray::_DatasetActor")

    config = SearchConfig.model_validate({"run": RUN, "space": {"model.n_arms": {"choice": [1]}}}).run
    comes_true(lambda: held() == 0)  # what earlier tests held goes a moment later
    before, known = held(), {*actors()}
    with dataset_cache(source, build_dataset) as cache:
        first = cache.get(config).dataset()
        (actor,) = {*actors()} - known
        os.kill(actor, signal.SIGKILL)
        again = cache.get(config).dataset()
        assert actor not in actors()
        np.testing.assert_array_equal(first.training.matrix.block(), again.training.matrix.block())
        assert comes_true(lambda: held() > before)
        ray_cluster.cloudpickle.dumps(cache)  # as Ray Tune does with the trials' class; a reference in it would stay
        del first, again, cache
    assert comes_true(lambda: held() <= before), (held(), before)
    assert comes_true(lambda: {*actors()} <= known)


@pytest.mark.slow
def test_a_failed_trial_says_why_and_does_not_end_the_search(ray_cluster, source, tmp_path):
    spec = spec_of({"training.lr": {"grid": [1e-3, 1e30]}, "model.n_arms": {"grid": [1]}})
    findings, folder = run_search(spec, source, tmp_path / "out")
    good, bad = sorted(findings.trials, key=lambda trial: trial.point["training.lr"])
    assert (good.status, bad.status) == ("done", "failed")
    assert re.search(r" at step \d+", bad.error)
    assert findings.best.name == good.name
    row = next(row for row in rows_of(folder) if row["trial"] == bad.name)
    assert row["error"] == bad.error
    assert json.loads(folder.trial(bad.name).failure.read_text())["repeats"] is True
    assert wait_for_everything(ray_cluster)


@pytest.mark.slow
def test_settings_that_do_not_fit_the_data_fail_their_trial_alone(ray_cluster, source, tmp_path):
    spec = spec_of({"model.likelihood": {"grid": ["bernoulli", "nb"]}})
    findings, _ = run_search(spec, source, tmp_path / "out")
    assert sorted(trial.status for trial in findings.trials) == ["done", "failed"]
    assert any("--likelihood nb" in trial.error for trial in findings.trials)


@pytest.fixture(scope="module")
def undisturbed(ray_cluster, source, tmp_path_factory):
    """One trial that nobody disturbs, and its spec."""
    spec = spec_of({"model.n_arms": {"choice": [1]}}, trials=1)
    training = spec.run.training.model_copy(update={"max_steps": 400})
    placement = spec.run.placement.model_copy(update={"collective_timeout": 20.0})
    run = spec.run.model_copy(update={"training": training, "placement": placement})
    spec = spec.model_copy(update={"run": run})
    return spec, *run_search(spec, source, tmp_path_factory.mktemp("undisturbed") / "out")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_trial_whose_process_is_lost_goes_on_from_its_checkpoint(undisturbed, source, tmp_path, how, fault_row):
    """It starts again from the newest checkpoint and ends as it would have; a frozen one is noticed in time."""
    spec, calm, other = undisturbed
    lost, told = [], {}

    def show(trials):
        # Told of a report beyond the first checkpoint, end the trial's process.
        step = trials[0].report.get("step", 0)
        if not lost and step >= 40:
            lost.extend(trial_processes(os.getpid()))
            for pid in lost:
                os.kill(pid, how)
        if lost:
            told.setdefault(step, time.monotonic())

    findings, folder = run_search(spec, source, tmp_path / "lost", show=show)
    silent = max(after - before for before, after in itertools.pairwise(told.values()))
    assert lost
    if how == signal.SIGSTOP:
        assert silent >= 0.75 * spec.run.placement.collective_timeout
    assert findings.trials[0].status == "done"
    assert findings.trials[0].report["score"] == calm.trials[0].report["score"]
    one, _ = latest_checkpoint(folder.trial("0000").run(0).checkpoints)
    two, _ = latest_checkpoint(other.trial("0000").run(0).checkpoints)
    assert all(torch.equal(one.parts["arm-0"][name], two.parts["arm-0"][name]) for name in one.parts["arm-0"])
    made = {signal.SIGKILL: "kill -9", signal.SIGSTOP: "SIGSTOP, with --collective-timeout 20"}[how]
    fault_row("search: trial process lost", made, 1, "weights of the undisturbed run", 4, silent)


@pytest.mark.slow
def test_whatever_stands_still_as_a_trial_begins_is_ended(ray_cluster, source, tmp_path, fault_row, monkeypatch):
    """A trial's process before it registers, and when another takes its place, the process of the data sets."""
    patience = 6.0
    spec = spec_of({"model.n_arms": {"choice": [1]}}, trials=1, trial_failures=1)
    placement = spec.run.placement.model_copy(update={"collective_timeout": patience})
    spec = spec.model_copy(update={"run": spec.run.model_copy(update={"placement": placement})})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder, stopped, over = SearchFolder(tmp_path / "out"), [], threading.Event()

    def strike():
        # A new worker of Ray is called idle until it has loaded what it is to run; the data sets' actor has by then.
        until(lambda: actors() and registered(actors()[0]))
        end = time.monotonic() + 4
        while time.monotonic() < end:
            for pid in workers_of(os.getpid(), "ray::IDLE"):
                stop(pid)
        assert stopped and not any(registered(pid) for pid in trial_processes(os.getpid())), "the trial has begun"
        until(lambda: any(registered(pid) for pid in trial_processes(os.getpid())))
        stop(actors()[0])

    def actors():
        return workers_of(os.getpid(), "ray::_DatasetActor")

    def stop(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            process.suspend()
            stopped.append(process)

    def until(find):
        while not find():
            assert not over.wait(0.002), "the search ended before"

    def registered(pid):
        return any(tmp_path.glob(f"cplmix-search-*/processes/{pid}"))

    with ThreadPoolExecutor(1) as beside:
        hits = beside.submit(strike)
        try:
            begun = time.monotonic()
            findings, _ = run_search(spec, source, folder.path)
        finally:
            over.set()
        hits.result()
    assert [trial.status for trial in findings.trials] == ["done"]
    assert psutil.wait_procs(stopped, timeout=2 * patience)[1] == []
    assert time.monotonic() - begun > 2.5 * patience
    assert wait_for_everything(ray_cluster)
    made = f"SIGSTOP, with --collective-timeout {patience:g}"
    fault_row("search: process of a trial before it begins, and that of the data", made, 2, "the trial is done")


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_the_search_with_a_sentence_and_nothing_is_lost(
    ray_cluster, source, tmp_path, disk, fault_row
):
    spec = spec_of({"objective.lam": {"grid": [0.5, 2.0]}}, trial_failures=1)
    model = spec.run.model.model_copy(update={"n_arms": 1})
    spec = spec.model_copy(update={"run": spec.run.model_copy(update={"model": model})})
    run_search(spec, source, tmp_path / "whole")
    disk(tmp_path / "disk", 40_000)
    folder, said = SearchFolder(tmp_path / "disk" / "out"), []

    def show(trials):
        if any(trial.report for trial in trials) and not ballast:
            ballast.append(fill(tmp_path / "disk"))

    ballast: list = []
    with pytest.raises(DiskError, match=r"Cannot write .*No space left on device.*--resume"):
        search.run_search(spec, source, folder, show, said.append)
    assert len(said) == 1 and "The search goes on, and writes it when it can." in said[0]
    ballast[0].unlink()
    findings, _ = run_search(spec, source, folder.path)
    assert [trial.status for trial in findings.trials] == ["done", "done"]
    same = ("trial", "status", "objective.lam", "score", "step", "acc", "reconstruction", "error")
    for row, whole in zip(rows_of(folder), rows_of(SearchFolder(tmp_path / "whole")), strict=True):
        assert {name: row[name] for name in same} == {name: whole[name] for name in same}
    assert (folder.best / "result.h5ad").exists() and wait_for_everything(ray_cluster)
    made = "a small tmpfs, filled after the first report for good"
    fault_row("search: full disk", made, 1, "a sentence at the end; resumed with the rows of the undisturbed search", 4)


class Stop(Exception):
    """The end of a driver in the middle of a search."""


@pytest.mark.slow
def test_population_based_training_ends_as_if_nothing_had_happened(ray_cluster, source, tmp_path, fault_row):
    """Trials that cannot learn by themselves go on from the weights of those that can, and one that fails leaves the
    others waiting for nobody. Then the same with interruptions: when an exchange has been made and not all trials have
    begun again, when one waits for the others, and with a trial's process killed."""
    lrs = {"training.lr": {"grid": [2e-2, 1e-9, 1e30]}}
    spec = spec_of(lrs, scheduler="pbt", perturb_every=20, search_seed=3, trial_failures=1)
    model = spec.run.model.model_copy(update={"n_arms": 1})
    training = spec.run.training.model_copy(update={"max_steps": 60})
    spec = spec.model_copy(update={"run": spec.run.model_copy(update={"model": model, "training": training})})
    reached: dict[int, dict[str, float]] = {}

    def watch(trials):
        for trial in trials:
            if trial.report:
                reached.setdefault(trial.report["step"], {}).setdefault(trial.name, trial.report["score"])

    calm, whole = run_search(spec, source, tmp_path / "whole", show=watch)
    assert [(t.name, t.status) for t in calm.trials] == [("0000", "done"), ("0001", "done"), ("0002", "failed")]
    assert " at step 1" in calm.trials[2].error
    first, *later = read_exchanges(whole, spec)[0]
    assert (first.step, [each.step for each in later]) == (20, [40])
    ((loser, winner),) = [(move.name, move.origin) for move in first.moves]
    assert reached[20][winner] > reached[20][loser] + 0.1, "neither had learned more than the other"
    assert reached[40][loser] > reached[20][loser] + 0.05, "it went on from its own weights"

    moments, killed = ["exchanged", "waits"], []

    def disturb(trials):
        steps = sorted(trial.report.get("step", 0) for trial in trials if trial.status != "failed")
        exchanges = len(read_exchanges(folder, spec)[0])
        if moments and moments[0] == "exchanged" and exchanges == 1:
            raise Stop(moments.pop(0))
        if moments and moments[0] == "waits" and steps == [20, 40]:
            raise Stop(moments.pop(0))
        if not killed and exchanges == 2 and (pids := trial_processes(os.getpid())):
            killed.append(pids[-1])
            os.kill(killed[0], signal.SIGKILL)

    folder = SearchFolder(tmp_path / "out")
    for moment in list(moments):
        with pytest.raises(Exception, match=moment):  # Ray Tune passes it on as text
            run_search(spec, source, folder.path, show=disturb)
    findings, _ = run_search(spec, source, folder.path, show=disturb)
    assert killed and not moments
    assert folder.exchanges.read_bytes() == whole.exchanges.read_bytes()
    for trial, other in zip(findings.trials, calm.trials, strict=True):
        for name in ("name", "status", "point", "error"):
            assert getattr(trial, name) == getattr(other, name)
        told, told_calm = (read_reports(each.trial(trial.name))[0] for each in (folder, whole))
        assert [(r["step"], r["score"]) for r in told] == [(r["step"], r["score"]) for r in told_calm]
        if trial.status == "done":
            one, two = (latest_checkpoint(each.trial(trial.name).run(0).checkpoints)[0] for each in (folder, whole))
            assert_bitwise(one.parts, two.parts)
    assert wait_for_everything(ray_cluster)
    fault_row(
        "population based search: driver stopped, trial process lost",
        "an error in the driver just after an exchange and as one trial waits for the other; kill -9",
        3,
        "exchanges, points, scores and weights of the undisturbed search",
    )


@pytest.mark.slow
def test_optuna_draws_the_trials(ray_cluster, source, tmp_path):
    pytest.importorskip("optuna")
    spec = spec_of(
        {"objective.lam": {"loguniform": [0.5, 2.0]}, "model.n_arms": {"choice": [1, 2]}}, searcher="optuna", trials=2
    )
    findings, folder = run_search(spec, source, tmp_path / "out")
    assert [row["status"] for row in rows_of(folder)] == ["done", "done"]
    assert len({trial.point["objective.lam"] for trial in findings.trials}) == 2
    assert all(0.5 <= trial.point["objective.lam"] <= 2.0 for trial in findings.trials)


def test_a_finished_search_that_is_resumed_runs_nothing_again(finished, source):
    spec, _, folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.trials.rglob("*") if path.is_file()}
    findings, _ = run_search(spec, source, folder.path)
    assert [trial.status for trial in findings.trials] == ["done", "done"]
    assert {path: path.stat().st_mtime_ns for path in folder.trials.rglob("*") if path.is_file()} == before


PICKLES = (
    "tuner.pkl",
    "trainable.pkl",
    "searcher-state-1.pkl",
    "search_gen_state-1.json",
    "basic-variant-state-1.json",
    "callback-states-1.pkl",
    "error.pkl",
    "params.pkl",
    "checkpoint.pkl",
    "dict_checkpoint.pkl",
    ".tune_metadata",
    ".metadata.pkl",
)


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, made):
        self.made = made

    def __reduce__(self):
        return os.mkdir, (str(self.made),)


@pytest.mark.slow
def test_a_folder_from_somebody_else_runs_no_code(finished, source, tmp_path, fault_row):
    """Pickles lie under every name that Ray Tune would read, and one trial is left to go on."""
    spec, _, whole, _ = finished
    folder, made = SearchFolder(tmp_path / "out"), tmp_path / "made"
    shutil.copytree(whole.path, folder.path)
    trial = folder.trial("0000")
    trial.reports.unlink()
    trial.run(1).metrics.unlink()
    harm = pickle.dumps(Harm(made))
    hexed = {"_type": "CLOUDPICKLE_FALLBACK", "value": harm.hex()}
    state = {"trial_data": [[json.dumps(hexed), json.dumps(hexed)]], "runner_data": hexed, "stats": hexed}
    tunes = [folder.path / "tune", folder.path / "tune" / "search"]
    (step,) = trial.run(1).checkpoints.glob("step-*12")
    for place in (folder.path, *tunes, *(tune / "0000" for tune in tunes), trial.path, trial.run(1).path, step):
        place.mkdir(parents=True, exist_ok=True)
        for name in PICKLES:
            (place / name).write_bytes(harm)
        (place / "experiment_state-1.json").write_text(json.dumps(state))
    findings, _ = run_search(spec, source, folder.path)
    assert [trial.status for trial in findings.trials] == ["done", "done"]
    assert not made.exists(), "code of the folder was run"

    from ray.tune import Tuner

    with contextlib.suppress(Exception):
        Tuner.restore(str(folder.older), lambda config: None)
    assert made.exists(), "these pickles would do no harm to anybody"
    fault_row("hostile files", "pickles under all names of Ray Tune in a search's folder", 1, "not read; no code ran")


@pytest.mark.slow
def test_a_frozen_process_is_ended_and_others_are_not(tmp_path):
    from cplmix_ray.tuning.stopped_processes import StoppedProcessKiller

    killer = StoppedProcessKiller(tmp_path / "processes", patience=3.0)
    with killer.running():
        frozen, well = (start_registered(killer) for _ in range(2))
        until = time.monotonic() + 60
        while len(list(killer.folder.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(frozen.pid, signal.SIGSTOP)
        frozen.join(60)
        assert frozen.exitcode == -signal.SIGKILL
        assert well.is_alive()
        well.kill()
        well.join()
