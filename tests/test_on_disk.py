"""Cells that stay on disk: the same cells, in a bounded memory, in an order that is known, and nothing left open."""

import gc
import json
import pickle
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import psutil
import pytest
import scipy.sparse as sp
import torch
from anndata.io import write_elem

import cplmix_ray.data.matrix.hdf5_matrix as matrix_file_module
import cplmix_ray.data.matrix.on_disk as on_disk_module
import cplmix_ray.data.neighbors.index as index_module
import cplmix_ray.evaluation.trained_model as model_module
import cplmix_ray.utils.free_memory as free_memory_module
from cplmix_ray.api import CplMixVAE
from cplmix_ray.augmentations.augmentation import build_augmentations
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.train_command import train
from cplmix_ray.config.files import parse_config
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.device_transfer import row_reader
from cplmix_ray.data.io.h5ad_backed import stays_on_disk
from cplmix_ray.data.io.read import read_source
from cplmix_ray.data.matrix.on_disk import OnDiskMatrix
from cplmix_ray.data.neighbors.index import NeighborIndex
from cplmix_ray.data.neighbors.nearest import nearest
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.distributed.actors import train_on_actors
from cplmix_ray.distributed.engines import train_in_process
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.metrics.category_scores import hungarian_accuracy
from cplmix_ray.models.cplmixvae.dataset import augmentations_for
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.training.batch_source import BatchSource, open_batch_source
from cplmix_ray.training.events import Evaluated, Logged, Snapshot
from cplmix_ray.training.loop import Start, training_loop
from cplmix_ray.training.prefetch import Prefetcher
from cplmix_ray.training.sampler import BLOCK, BlockSampler
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.free_memory import free_memory

CELLS, GENES = 500, 30
CPU, KEY = torch.device("cpu"), (1000,)


def cells(n: int = CELLS, seed: int = 0) -> anndata.AnnData:
    """Counts of three types that follow one another, as they do in files that were put together of several."""
    rng = np.random.default_rng(seed)
    type_n = np.sort(rng.integers(0, 3, n))
    rate_ng = rng.gamma(0.4, 2.0, (3, GENES))[type_n] * rng.uniform(0.5, 2.0, (n, 1))
    counts = rng.poisson(rate_ng).astype(np.float32)
    counts[5] = 0  # a cell without any counts
    obs = pd.DataFrame({"cell_type": [f"type {t}" for t in type_n]}, index=[f"cell_{i}" for i in range(n)])
    return anndata.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"gene_{i}" for i in range(GENES)]))


KINDS = {
    "sparse": lambda x: sp.csr_matrix(x),
    "sparse array": lambda x: sp.csr_array(x),
    "whole numbers": lambda x: sp.csr_matrix(x).astype(np.int32),
    "wide": lambda x: sp.csr_matrix(x).astype(np.float64),
    "dense": lambda x: np.asarray(x),
    "dense whole numbers": lambda x: np.asarray(x).astype(np.int64),
}


def saved(adata: anndata.AnnData, path: Path, kind: str = "sparse", compression: str | None = None) -> str:
    counts = adata.X.toarray()
    adata.X = KINDS[kind](counts)
    adata.layers["logged"] = KINDS[kind](counts).astype(np.float32) * np.float32(0.37)
    adata.write_h5ad(path, compression=compression)
    return str(path)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return saved(cells(), tmp_path_factory.mktemp("cells") / "cells.h5ad")


def settings(**tree):
    model = {"n_categories": 3, "hidden": [16], "bottleneck": 6, "state_dim": 2, **tree.pop("model", {})}
    usual = {
        "copies": {"copies": ["gene_dropout"]},
        "training": {"max_steps": 12, "batch_size": 32, "checkpoint_every": 5, "evaluate_every": 6, "log_every": 1},
        "placement": {"engine": "local", "threads": 1},
    }
    return parse_config({**usual, **tree, "model": model})


def built(path: str, backed: str, config=None, **given) -> Dataset:
    return build_dataset(read_source(path, backed=backed, **given), config or settings())


def dense(values) -> np.ndarray:
    return values.toarray() if sp.issparse(values) else np.asarray(values)


# The same cells


SAME = {
    "as it is": ({}, {}),
    "of its genes, the most variable": ({}, {"input": {"hvg": 12}}),
    "scaled to the median": ({"layer": "logged"}, {"input": {"target_sum": "median", "normalise": "log1p"}}),
    "counts": ({}, {"model": {"likelihood": "nb"}, "copies": {"copies": ["thinning"]}}),
    "a layer": ({"layer": "logged"}, {}),
    "not normalised": ({}, {"input": {"normalise": "none"}}),
    "some of the cells": ({"subset": 200, "seed": 3}, {}),
}


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        # Each kind of matrix and each way of reading it at least once, sparse and dense with each of the latter.
        pytest.param(kind, given, marks=[] if kind in ("sparse", "dense") or given == "as it is" else pytest.mark.slow)
        for kind in KINDS
        for given in SAME
    ],
)
def test_the_preparation_and_the_rows_are_those_in_memory(tmp_path, kind, given):
    path = saved(cells(), tmp_path / "cells.h5ad", kind)
    reading, tree = SAME[given]
    there, here = (built(path, backed, settings(**tree), **reading) for backed in ("yes", "no"))
    assert isinstance(there.training.matrix, OnDiskMatrix)
    assert there.training.preparation == here.training.preparation
    assert here.notes == there.notes[: len(here.notes)]
    np.testing.assert_array_equal(there.training.train_idx, here.training.train_idx)
    assert there.training.matrix.shape == here.training.matrix.shape
    rng = np.random.default_rng(0)
    for idx_n in (np.arange(there.n_cells), rng.integers(0, there.n_cells, 90), np.array([7]), np.array([], int)):
        rows = there.training.matrix.rows(idx_n)
        assert sp.issparse(rows) == sp.issparse(here.training.matrix.block())
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(dense(rows), dense(here.training.matrix.block()[idx_n]))


def test_genes_ranked_on_a_sample_do_not_depend_on_the_seed(path, monkeypatch):
    """Runs of several seeds share the cells in a machine's memory."""
    monkeypatch.setattr(on_disk_module, "SAMPLE", 100)
    monkeypatch.setattr(on_disk_module, "_LEAST", 10)
    one, other = (built(path, "yes", settings(input={"hvg": 9}, seed=seed)) for seed in (0, 1))
    assert one.training.preparation == other.training.preparation
    assert any("100 of the 500 cells" in note for note in one.notes)


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_a_compressed_file_is_read_too(tmp_path, compression):
    path = saved(cells(), tmp_path / "cells.h5ad", compression=compression)
    rows = built(path, "yes").training.matrix.rows(np.arange(100, 300))
    np.testing.assert_array_equal(dense(rows), dense(built(path, "no").training.matrix.block()[100:300]))


@pytest.mark.parametrize("span", [3, 40])
def test_rows_do_not_depend_on_how_many_are_read_at_once(path, monkeypatch, span):
    rng = np.random.default_rng(1)
    idx_n = rng.choice(CELLS, 120, replace=False)
    values = built(path, "yes").training.matrix
    expected = dense(values.rows(idx_n))
    monkeypatch.setattr(matrix_file_module, "_SPAN", span)
    monkeypatch.setattr(matrix_file_module, "_BRIDGED", 2)
    np.testing.assert_array_equal(dense(values.rows(idx_n)), expected)


def test_labels_and_metadata_go_with_their_cells(tmp_path, path):
    names = [f"cell_{i}" for i in range(0, CELLS, 3)][::-1]
    table = tmp_path / "cells.csv"
    pd.DataFrame({"sample_name": names, "batch": [f"b{i % 2}" for i in range(len(names))]}).to_csv(table, index=False)
    there, here = (
        read_source(path, labels_key="cell_type", metadata=str(table), backed=backed) for backed in ("yes", "no")
    )
    assert there.notes == here.notes
    assert list(there.adata.obs_names) == list(here.adata.obs_names)
    assert there.adata.X is None
    np.testing.assert_array_equal(there.labels_n, here.labels_n)
    np.testing.assert_array_equal(dense(there.matrix.rows(np.arange(20))), dense(here.matrix.block()[:20]))


def test_rows_are_small_when_they_travel(path):
    values = built(path, "yes").training.matrix
    assert len(pickle.dumps(values)) < 20_000
    again = pickle.loads(pickle.dumps(values))
    np.testing.assert_array_equal(dense(again.rows(np.arange(9))), dense(values.rows(np.arange(9))))


@pytest.mark.filterwarnings("ignore::cplmix_ray.CplMixWarning")
def test_a_backed_object_stays_in_its_file_in_python_too(path):
    adata = anndata.read_h5ad(path, backed="r")
    try:
        CplMixVAE.setup_anndata(adata, labels_key="cell_type")
        model = CplMixVAE(adata, n_categories=3, max_steps=4, hidden=[8], batch_size=32, engine="local")
        assert isinstance(model._source(adata).matrix, OnDiskMatrix)
        assert 0 <= model.train()["acc"] <= 1
        assert len(model.get_assignments()) == CELLS
    finally:
        adata.file.close()


def test_auto_looks_at_the_free_memory(path, monkeypatch):
    assert not stays_on_disk(path, None, "auto")
    stored = sp.csr_matrix(cells().X)
    needed = 4 * (stored.data.nbytes + stored.indices.nbytes)
    for free, stays in ((needed + 8, False), (needed - 8, True)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: type("Memory", (), {"available": free}))
        assert stays_on_disk(path, None, "auto") is stays


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(free_memory_module, "_GROUPS", tmp_path)
    unlimited = free_memory()
    for name, content in (("max", "max"), ("current", "700"), ("stat", "anon 500\ninactive_file 150\n")):
        (tmp_path / f"memory.{name}").write_text(content)
    assert free_memory() > unlimited / 2
    (tmp_path / "memory.max").write_text("1000\n")
    assert free_memory() == 450


# The order


@pytest.mark.parametrize(
    ("n", "batch", "buffer"),
    [(1000, 32, 200), (1000, 32, 10_000), (130, 128, 10), (64, 64, 64), (70, 500, 1), (3, 1, 2)],
)
def test_every_training_cell_comes_once_an_epoch(n, batch, buffer):
    train_idx = np.sort(np.random.default_rng(0).choice(5 * n, n, replace=False))
    order = BlockSampler(train_idx, batch, 7, KEY, buffer)
    size = min(batch, n)
    for epoch in range(3):
        steps = range(epoch * order.batches, (epoch + 1) * order.batches)
        seen = np.concatenate([order.batch(step) for step in steps])
        assert len(seen) == n // size * size
        assert len(np.unique(seen)) == len(seen)
        assert np.isin(seen, train_idx).all()
    first = [order.batch(step).tolist() for step in range(2 * order.batches)]
    again = BlockSampler(train_idx, batch, 7, KEY, buffer)
    backwards = [again.batch(step).tolist() for step in reversed(range(2 * order.batches))]
    assert backwards[::-1] == first, "the order must be known at any step"
    if n > 100:
        assert BlockSampler(train_idx, batch, 8, KEY, buffer).batch(0).tolist() != first[0]
        assert first[: order.batches] != first[order.batches :]


def test_buffers_are_bounded_and_hold_their_minibatches():
    order = BlockSampler(np.arange(0, 3000, 2), 32, 0, KEY, 200)
    step, number = 0, 0
    while step < 3 * order.batches:
        buffer = order.buffer_at(step)
        assert (buffer.number, buffer.first) == (number, step)
        assert len(buffer.idx_n) <= 200
        inside = np.concatenate([order.batch(s) for s in range(buffer.first, buffer.last)])
        np.testing.assert_array_equal(np.sort(inside), buffer.idx_n)
        assert all(order.buffer_at(s).number == number for s in range(buffer.first, buffer.last))
        step, number = buffer.last, number + 1


def test_minibatches_of_a_sorted_file_are_mixed():
    """As in a file of a hundred thousand cells of 20 types, one type after the other.

    With B blocks of 64 in a buffer a type's share in a minibatch of n cells varies as if n / (1 + n / B) of them had
    been drawn at random.
    """
    n, n_types, batch, buffer = 100_000, 20, 250, 16_000
    type_n = np.arange(n) * n_types // n
    order = BlockSampler(np.arange(n), batch, 0, KEY, buffer)
    share = np.array(
        [np.bincount(type_n[order.batch(step)], minlength=n_types) / batch for step in range(order.batches)]
    )
    np.testing.assert_allclose(share.mean(0), 1 / n_types, atol=1e-9)
    drawn = batch / (1 + batch / (buffer / BLOCK))
    expected = np.sqrt((1 / n_types) * (1 - 1 / n_types) / drawn)
    assert 0.7 * expected < share.std() < 1.15 * expected
    assert (share > 0).mean() > 0.97, "hardly a minibatch lacks a type"


# The feed


def fed(data: TrainingSet, batch: int, buffer: int, n_steps: int) -> Prefetcher:
    return Prefetcher(data.matrix, BlockSampler(data.train_idx, batch, 0, KEY, buffer), data.val_idx, n_steps)


@pytest.mark.parametrize("start", [0, 9, 40])
def test_the_feed_gives_the_rows_of_its_minibatches_at_a_bounded_size(path, start):
    data = built(path, "yes").training
    everything = dense(data.matrix.rows(np.arange(CELLS)))
    with fed(data, 16, 100, 60) as feed:
        for step in range(start, 60):
            idx_n = feed.batch(step)
            np.testing.assert_array_equal(dense(feed.rows(idx_n)), everything[idx_n])
        np.testing.assert_array_equal(dense(feed.rows(data.val_idx)), everything[data.val_idx])
        assert 96 <= feed.peak_rows <= 2 * 96


def test_cells_that_fit_into_one_buffer_are_read_once(path, monkeypatch):
    data, read = built(path, "yes").training, Counter()
    original = OnDiskMatrix._read
    monkeypatch.setattr(
        OnDiskMatrix, "_read", lambda self, file, idx_n: (read.update(idx_n), original(self, file, idx_n))[1]
    )
    with fed(data, 50, 10_000, 10**6) as feed:
        for step in range(5 * feed.sampler.batches):
            feed.rows(feed.batch(step))
            feed.rows(data.val_idx[step % 3 :])
    assert set(read.values()) == {1}


def test_of_many_cells_on_disk_a_part_validates(path, monkeypatch):
    monkeypatch.setattr(on_disk_module, "SAMPLE", 20)
    monkeypatch.setattr(on_disk_module, "_LEAST", 10)
    data = built(path, "yes").training
    assert (len(data.train_idx), len(data.val_idx)) == (CELLS - 20, 20)
    assert np.isin(data.val_idx, built(path, "no").training.val_idx).all()


def open_things() -> tuple[int, int]:
    gc.collect()
    return psutil.Process().num_fds(), threading.active_count()


@pytest.mark.skipif(not hasattr(psutil.Process, "num_fds"), reason="counts open files as Unix does")
@pytest.mark.parametrize("end", ["closed early", "ran out", "failed"])
def test_nothing_stays_open_behind_the_loop(path, monkeypatch, end):
    data = built(path, "yes").training
    monkeypatch.setattr(on_disk_module, "_BUFFER_CELLS", 64)
    before = open_things()
    events = training_loop(settings(), data, [0, 1], torch.device("cpu"), Start())
    if end == "failed":
        monkeypatch.setattr(Prefetcher, "rows", lambda self, idx_n: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(events)
    else:
        next(events)
        assert open_things() > before
        if end == "closed early":
            events.close()
        else:
            list(events)
    assert open_things() == before


def test_an_error_of_the_reader_ends_the_loop_in_a_sentence(path, monkeypatch):
    data = built(path, "yes").training
    monkeypatch.setattr(on_disk_module, "_BUFFER_CELLS", 64)

    def broken(self, file, idx_n):
        raise InputError("Cannot read it.")

    before = threading.active_count()
    monkeypatch.setattr(OnDiskMatrix, "_read", broken)
    with pytest.raises(InputError, match="Cannot read it"):
        list(training_loop(settings(), data, [0, 1], torch.device("cpu"), Start()))
    assert threading.active_count() == before


def test_a_file_that_a_worker_does_not_see_is_named(tmp_path):
    path = saved(cells(), tmp_path / "cells.h5ad")
    data = built(path, "yes").training
    Path(path).unlink()
    with pytest.raises(InputError, match=r"cells\.h5ad\b.*--backed no"):
        list(training_loop(settings(), data, [0, 1], torch.device("cpu"), Start()))


# Neighbours


def test_neighbours_among_many_are_near_and_known_from_the_seed(monkeypatch):
    """Where they are not sought among all, most are still of the same of 40 clumps, in a space of 6 dimensions."""
    monkeypatch.setattr(index_module, "EXACT_UP_TO", 100)
    monkeypatch.setattr(index_module, "REGION_CELLS", 64)
    rng = np.random.default_rng(0)
    clump_n = rng.integers(0, 40, 4000)
    points = (rng.normal(0, 5.0, (40, 6))[clump_n] + rng.normal(0, 1.0, (4000, 6))).astype(np.float32)
    at_n = np.full(5000, -1)
    train_idx = np.sort(rng.choice(5000, 4000, replace=False))
    at_n[train_idx] = np.arange(4000)
    places, again = (NeighborIndex.build(points, at_n, 5, 1000, 0) for _ in range(2))
    buffer = np.sort(rng.choice(train_idx, 1000, replace=False))
    near_nj = places.neighbors(buffer)
    np.testing.assert_array_equal(near_nj, again.neighbors(buffer))
    assert near_nj.shape == (1000, 5)
    own = np.arange(1000)[:, None]
    assert (near_nj != own).mean() > 0.99
    assert all(len(set(row)) == 5 for row in near_nj[(near_nj != own).all(axis=1)])
    found = points[at_n[buffer]]
    exact = nearest(found, 5)
    shared = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(near_nj, exact, strict=True)])
    assert shared > 0.8, "most of the nearest are found"
    clumps = clump_n[at_n[buffer]]
    assert (clumps[near_nj] == clumps[:, None]).mean() > 0.95 * (clumps[exact] == clumps[:, None]).mean()


def test_a_region_that_all_share_and_one_with_a_single_cell(monkeypatch):
    monkeypatch.setattr(index_module, "EXACT_UP_TO", 10)
    monkeypatch.setattr(index_module, "REGION_CELLS", 16)
    points = np.random.default_rng(0).normal(size=(101, 3)).astype(np.float32)
    places = NeighborIndex(points, np.arange(101), np.array([0] * 100 + [1], np.int32), 4)
    near_nj = places.neighbors(np.arange(101))
    assert (near_nj[100] == 100).all(), "who has no neighbour is its own"
    assert (near_nj[:100] < 100).all()
    assert (near_nj[:100] != np.arange(100)[:, None]).all()


def test_copies_are_neighbours_among_the_cells_that_are_in_memory(path, monkeypatch):
    """k neighbours or the cell itself, all equally likely; of a cell that is not in memory, itself."""
    monkeypatch.setattr(on_disk_module, "_BUFFER_CELLS", 128)
    config = settings(copies={"copies": ["auto"], "n_neighbours": 3})
    data = built(path, "yes", config).training
    with open_batch_source(data, config, CPU, KEY) as batches:
        kinds = augmentations_for(config, data.preparation, data.matrix)
        (neighbours, _) = build_augmentations(
            kinds, config.copies, data.preparation, data.tables, batches.pick_neighbors
        )
        idx_n = torch.as_tensor(batches.batch(0))
        generator = torch.Generator().manual_seed(0)
        drawn = torch.stack([neighbours.choose_rows(idx_n, generator) for _ in range(2000)])
        assert np.isin(drawn.numpy(), batches.available).all()
        for cell, seen in zip(idx_n.tolist(), drawn.T, strict=True):
            counts = Counter(seen.tolist())
            assert len(counts) == 4 and cell in counts
            assert all(400 < count < 600 for count in counts.values())
        away = torch.as_tensor(np.setdiff1d(data.train_idx, batches.available)[:20])
        assert torch.equal(neighbours.choose_rows(away, generator), away)


def test_of_more_cells_than_a_sample_each_goes_by_the_nearest(path, monkeypatch):
    monkeypatch.setattr(on_disk_module, "SAMPLE", 150)
    monkeypatch.setattr(on_disk_module, "_LEAST", 10)
    config = settings(**RECIPES["an ensemble"])
    data = built(path, "yes", config, labels_key="cell_type")
    guess_n, train_idx = data.training.tables.guess[:, 0], data.training.train_idx
    assert (guess_n[data.training.val_idx] == -1).all()
    assert set(np.unique(guess_n[train_idx])) == {0, 1, 2}
    assert hungarian_accuracy(guess_n[train_idx], np.unique(data.labels_n[train_idx], return_inverse=True)[1]) > 0.9
    places = data.training.tables.neighbor_index
    assert len(places.points_mp) == 150 and (places.at_n[train_idx] >= 0).all()
    near = train_idx[places.neighbors(train_idx)]
    assert (data.labels_n[near] == data.labels_n[train_idx][:, None]).mean() > 0.9
    *_, last = training_loop(config, data.training, [0, 1], torch.device("cpu"), Start())
    assert isinstance(last, Snapshot) and last.step == config.training.max_steps


# Training


def events_of(data: TrainingSet, config, start: Start | None = None) -> list:
    return list(training_loop(config, data, [0, 1], torch.device("cpu"), start or Start()))


def assert_same_arms(one: Snapshot, other: Snapshot) -> None:
    assert one.step == other.step
    for arm, tensors in one.parts.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other.parts[arm][name]), name


RECIPES = {
    "gaussian": {},
    "negative binomial": {"model": {"likelihood": "nb"}, "copies": {"copies": ["thinning"]}},
    "neighbours": {"copies": {"copies": ["auto"], "n_neighbours": 5}},
    "an ensemble": {
        "copies": {"copies": ["auto"], "neighbour_space": "clustering"},
        "alignment": {"align_steps": 4, "align_guess": 1.0},
    },
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_is_that_in_memory_where_the_order_is(path, monkeypatch, recipe):
    """Losses, posteriors and weights, bit for bit: only the order of the cells is another."""
    config = settings(**RECIPES[recipe])
    there, here = (built(path, backed, config).training for backed in ("yes", "no"))
    on_disk = events_of(there, config)
    order = BlockSampler(here.train_idx, config.training.batch_size, config.seed, KEY, there.matrix.buffer_cells)
    monkeypatch.setattr(BatchSource, "batch", lambda self, step: order.batch(step))
    in_memory = events_of(here, config)
    assert [type(event) for event in on_disk] == [type(event) for event in in_memory]
    for one, other in zip(on_disk, in_memory, strict=True):
        if isinstance(one, Logged):
            assert (one.terms, one.shared) == (other.terms, other.shared)
        elif isinstance(one, Evaluated):
            np.testing.assert_array_equal(one.outputs["log_q_ank"], other.outputs["log_q_ank"])
        else:
            assert_same_arms(one, other)


def test_a_run_that_was_stopped_ends_with_the_weights_that_it_would_have_had(path, monkeypatch):
    monkeypatch.setattr(on_disk_module, "_BUFFER_CELLS", 100)
    config, data = settings(), built(path, "yes").training
    whole = [event for event in events_of(data, config) if isinstance(event, Snapshot)]
    events, saved_at = training_loop(config, data, [0, 1], torch.device("cpu"), Start()), None
    for event in events:
        if isinstance(event, Snapshot):
            saved_at = event
        if isinstance(event, Logged) and event.step == 8:
            events.close()
            break
    assert saved_at is not None and saved_at.step == 5
    rest = [e for e in events_of(data, config, Start(5, saved_at.parts)) if isinstance(e, Snapshot)]
    assert_same_arms(rest[-1], whole[-1])


def test_the_loop_holds_no_more_than_two_buffers(path, monkeypatch):
    monkeypatch.setattr(on_disk_module, "_BUFFER_CELLS", 70)
    data, config = built(path, "yes").training, settings()
    with open_batch_source(data, config, CPU, KEY) as batches:
        (feed,) = batches.prefetchers.values()
        assert isinstance(feed, Prefetcher)
        for step in range(12):
            batches.batch(step)
        assert feed.peak_rows <= 140


ACTORS = Plan("ray", ((0,), (1,)), False, "")


@pytest.mark.slow
def test_arms_on_actors_read_the_file_themselves(path, ray_cluster):
    """What travels is where the cells are."""
    config = settings(**RECIPES["neighbours"])
    data = built(path, "yes", config).training
    apart = list(train_on_actors(ACTORS, config, data, Start()))
    together = list(train_in_process(Plan("ray", ((0, 1),), False, ""), config, data, Start()))
    for one, other in zip(apart, together, strict=True):
        assert (type(one), one.step) == (type(other), other.step)
        if isinstance(one, Logged):
            np.testing.assert_allclose(one.terms["loss"], other.terms["loss"], rtol=1e-4)


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_file_says_so(tmp_path, ray_cluster):
    path = saved(cells(), tmp_path / "cells.h5ad")
    data = built(path, "yes").training
    Path(path).unlink()
    with pytest.raises(InputError, match=r"cells\.h5ad\b.*--backed"):
        list(train_on_actors(ACTORS, settings(), data, Start()))


# What cannot be used


def test_a_matrix_stored_by_genes_is_refused_with_the_remedy(tmp_path):
    adata = cells()
    adata.X = sp.csc_matrix(adata.X)
    adata.write_h5ad(tmp_path / "genes.h5ad")
    with pytest.raises(InputError, match=r"\bX\b.*genes\.h5ad.*CSC.*adata\.X = adata\.X\.tocsr"):
        read_source(str(tmp_path / "genes.h5ad"), backed="yes")


def spoiled(path: str, value: float) -> str:
    with h5py.File(path, "r+") as file:
        file["X/data"][11] = value
    return path


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_wrong_values_have_the_sentences_that_they_have_in_memory(tmp_path, value):
    path = spoiled(saved(cells(), tmp_path / "cells.h5ad"), value)
    for tree in ({"input": {"normalise": "log1p"}}, {"model": {"likelihood": "nb"}}):
        said = []
        for backed in ("no", "yes"):
            with pytest.raises(InputError) as caught:
                built(path, backed, settings(**tree))
            said.append(str(caught.value))
        assert said[0] == said[1]


@pytest.mark.parametrize("what", ["cut off", "no file of this kind", "short", "genes beyond", "no layer"])
def test_broken_files_are_refused(tmp_path, what):
    path, layer = Path(saved(cells(), tmp_path / "cells.h5ad")), None
    if what == "cut off":
        path.write_bytes(path.read_bytes()[:2000])
    elif what == "no file of this kind":
        path.write_text("cells")
    elif what == "no layer":
        layer = "absent"
    else:
        with h5py.File(path, "r+") as file:
            if what == "short":
                numbers = file["X/data"][:100]
                del file["X/data"]
                file["X/data"] = numbers
            else:
                file["X/indices"][3] = GENES + 4
    with pytest.raises(InputError, match=r"cells\.h5ad") as caught:
        built(str(path), "yes", layer=layer)
    assert "\n" not in str(caught.value)


# The commands


def command(function, *words: str | Path) -> None:
    function([str(word) for word in words])


LINE = (
    "--preset published --n-categories 3 --hidden 16 --bottleneck 6 --batch-size 32 --engine local --threads 1 --seed 1"
)


def test_train_and_predict_leave_the_matrix_where_it_is(tmp_path, path, capsys):
    out = tmp_path / "run"
    line = ["--data", path, "--labels-key", "cell_type", *LINE.split(), "--out", out]
    command(train, *line, "--backed", "yes", "--max-steps", "6")
    assert "expression" in capsys.readouterr().out
    command(train, *line, "--max-steps", "9", "--resume")  # on disk, as it began
    result = anndata.read_h5ad(out / "result.h5ad")
    assert result.X is None and not result.layers
    assert list(result.obs_names) == [f"cell_{i}" for i in range(CELLS)]
    assert result.obsm["cplmix_probs"].shape == (CELLS, 3)
    for backed in ("yes", "no"):
        command(predict, "--run", out, "--data", path, "--out", tmp_path / f"{backed}.h5ad", "--backed", backed)
    there, here = (anndata.read_h5ad(tmp_path / f"{backed}.h5ad") for backed in ("yes", "no"))
    assert there.X is None and here.X is not None
    np.testing.assert_array_equal(there.obsm["cplmix_probs"], here.obsm["cplmix_probs"])
    np.testing.assert_array_equal(there.obsm["X_cplmix"], result.obsm["X_cplmix"])
    with pytest.raises(InputError, match=r"input\.backed"):
        command(train, *line, "--max-steps", "12", "--resume", "--backed", "no")


def test_a_trained_model_takes_cells_wherever_they_are(path):
    config = settings()
    here = built(path, "no", config)
    arms = next(e for e in events_of(here.training, config) if isinstance(e, Snapshot)).parts
    model = TrainedModel.from_parts(config, here.training.preparations, arms, 5)
    one, other = (model.infer(model.prepare(read_source(path, backed=b))) for b in ("yes", "no"))
    assert one.keys() == other.keys() == {"log_q_ank", "reconstruction_a", "probs_nk", "state_nd"}
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_inference_reads_every_cell_once_and_leaves_out_what_is_not_wanted(path, monkeypatch):
    monkeypatch.setattr(model_module, "BATCH", 64)
    config, read = settings(), []
    data = built(path, "yes", config).training
    arms = next(e for e in events_of(data, config) if isinstance(e, Snapshot)).parts
    model = TrainedModel.from_parts(config, data.preparations, arms, 5)
    original = OnDiskMatrix._read

    def counted(self, file, idx_n):
        read.append(idx_n)
        return original(self, file, idx_n)

    monkeypatch.setattr(OnDiskMatrix, "_read", counted)
    before = open_things()
    wanted = ["probs_nk", "state_nd"]
    whole, part = model.infer(data), model.infer(data, wanted)
    assert open_things() == before
    assert max(map(len, read)) == 64
    np.testing.assert_array_equal(np.concatenate(read), np.tile(np.arange(CELLS), 2))
    assert list(part) == wanted
    for name in wanted:
        np.testing.assert_array_equal(part[name], whole[name], err_msg=name)
    with torch.no_grad():
        x = row_reader(data.matrix, CPU)(torch.arange(CELLS))
        encoded = model.model.network.eval().encode([x, x])
        mu_and, _ = model.model.network.state(encoded.z_anb, encoded.log_q_ank.exp())
        loss_a = model.model.network.reconstruction([x, x], mu_and, encoded.log_q_ank.exp())
    np.testing.assert_allclose(whole["log_q_ank"], encoded.log_q_ank, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole["reconstruction_a"], loss_a, rtol=1e-5)


# Memory


def written_in_blocks(path: Path, n: int, g: int, density: float) -> float:
    """Counts that were never in memory together; gives what they take there, in MB."""
    rng, block = np.random.default_rng(0), 4000
    with h5py.File(path, "w") as file:
        write_elem(file, "obs", pd.DataFrame(index=[f"cell_{i}" for i in range(n)]))
        write_elem(file, "var", pd.DataFrame(index=[f"gene_{i}" for i in range(g)]))
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        x = file.create_group("X")
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": np.array([n, g])})
        data, indices = (x.create_dataset(k, (0,), t, maxshape=(None,)) for k, t in (("data", "f4"), ("indices", "i4")))
        ends = [0]
        for _ in range(0, n, block):
            row_n, gene_n = np.nonzero(rng.random((block, g), dtype=np.float32) < density)
            data.resize((ends[-1] + len(row_n),))
            indices.resize((ends[-1] + len(row_n),))
            data[ends[-1] :] = rng.integers(1, 9, len(row_n)).astype(np.float32)
            indices[ends[-1] :] = gene_n.astype(np.int32)
            ends += (ends[-1] + np.cumsum(np.bincount(row_n, minlength=block))).tolist()
        x["indptr"] = np.array(ends)
        return len(data) * 8 / 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory has another unit elsewhere")
def test_training_takes_a_part_of_the_memory_that_the_cells_would_take(tmp_path):
    """Sizes in MB, in a process of its own."""
    path = tmp_path / "cells.h5ad"
    matrix = written_in_blocks(path, 100_000, 2_000, 0.3)
    script = Path(__file__).parent / "memory_on_disk.py"
    done = subprocess.run([sys.executable, script, path, "yes"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    print(matrix, seen)
    assert seen["cells"] == 100_000
    assert seen["peak_rows"] <= 2 * 8192
    assert matrix > 400
    assert seen["grown"] < matrix / 2, "less than half of what reading them alone would take"
