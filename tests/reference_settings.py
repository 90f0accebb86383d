"""The settings whose numbers reference_numbers.py records, as command lines, and the data that they use."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

_FEW = (
    "--threads 1 --max-steps 20 --log-every 1 --evaluate-every 10 --checkpoint-every 10 --batch-size 64 --hidden 32 32 "
    "--out {out}"
)
_TRAIN = f"--preset published --engine local {_FEW}/run"
_AUGMENT = "--threads 1 --max-steps 20 --log-every 1 --batch-size 64 --hidden 32 16 --out {out}/augmenter"
_CELLS = "--data {data}/cells.h5ad --n-categories 5 --labels-key type"
_STAGE = "--align-steps 8"


def with_defaults(line: str, defaults: str) -> str:
    """A command line, and those defaults whose option it does not have."""
    options = [f"--{option}" for option in f" {defaults}".split(" --")[1:]]
    return " ".join([line, *(option for option in options if option.split()[0] not in line.split())])


def train(line: str = "") -> str:
    return with_defaults(f"train {line}", _TRAIN)


LOCAL: dict[str, list[str]] = {
    "published": [train("--hidden 128 128")],
    "bernoulli": [train("--likelihood bernoulli --copies none")],
    "gaussian_images": [train("--likelihood gaussian")],
    "gaussian_sparse_layer": [train(f"{_CELLS} --layer part --state-key state")],
    "nb": [train(f"{_CELLS} --likelihood nb")],
    "zinb": [train(f"{_CELLS} --likelihood zinb --copies thinning")],
    "gaussian_hvg": [train(f"{_CELLS} --hvg 60")],
    "matrix_csv": [train("--data {data}/cells.csv --metadata {data}/metadata.csv --labels-key type --n-categories 5")],
    "on_disk": [train(f"{_CELLS} --backed yes")],
    "on_disk_nb_layer": [train(f"{_CELLS} --backed yes --layer part --likelihood nb")],
    "d_sigma_floor": [train("--coupling d_sigma --lam 3 --sigma-floor 0.05")],
    "aitchison": [train("--coupling aitchison --tau 0.3")],
    "euclidean": [train("--coupling euclidean --lam 2")],
    "agreement": [train("--coupling agreement --marginal 1 --entropy 0 --posterior softmax")],
    "two_stages": [train(f"{_STAGE} --align-coupling agreement")],
    "overcluster": [train(f"{_STAGE} --overcluster 2 --coupling agreement --marginal 1 --posterior softmax")],
    "preset_cells": [train(f"--preset cells {_CELLS} --hvg 60 {_STAGE} --lam-warmup 5")],
    "shared_parameters": [train("--shared-parameters True")],
    "shared_parameters_nb": [train(f"{_CELLS} --shared-parameters True --likelihood nb --n-arms 3")],
    "replicas": [train("--replicas 2")],
    "replicas_sparse": [train(f"{_CELLS} --replicas 4")],
    "one_arm": [train("--n-arms 1")],
    "three_arms": [train("--n-arms 3")],
    "affine": [train("--copies affine --stretch 0.2")],
    "image_file": [train("--data {data}/images.npz --copies deskew move standardise --likelihood gaussian")],
    "content_view": [train("--preset dsprites --subset 200 --align-steps 8")],
    "dsprites_whole_view": [train("--data dsprites --subset 200 --n-categories 3 --labels-key shape")],
    "input_dropout": [train("--input-dropout 0.3")],
    "input_dropout_sparse": [train(f"{_CELLS} --input-dropout 0.3")],
    "bfloat16": [train("--precision bfloat16")],
    "bfloat16_sparse": [train(f"{_CELLS} --precision bfloat16")],
    "schedules": [train("--lr-schedule cosine --lr-warmup 5 --lam-warmup 10 --clip 1 --seed 7")],
    "network_options": [
        train("--batch-norm False --state-given-category False --gumbel-temperature 0.5 --state-dim 4")
    ],
    "resumed": [train("--max-steps 12"), train("--resume")],
    "augmenter_images": [
        with_defaults("augment", _AUGMENT),
        train("--copies learned --augmenter {out}/augmenter"),
    ],
    "augmenter_cells": [
        with_defaults("augment --data {data}/cells.h5ad --labels-key type", _AUGMENT),
        train(f"{_CELLS} --copies neighbours learned --augmenter {{out}}/augmenter"),
    ],
    "predict": [
        train(f"{_CELLS}"),
        "predict --run {out}/run --data {data}/new.h5ad --out {out}/new.h5ad",
        "predict --run {out}/run --data {data}/new.h5ad --backed yes --out {out}/new_on_disk.h5ad",
    ],
    "simulate": ["simulate --types 5 --cells 200 --genes 80 --out {out}/simulated.h5ad"],
    "simulate_10x": ["simulate --types 5 --cells 200 --genes 80 --technology 10x --seed 3 --out {out}/simulated.h5ad"],
}
"""Settings whose commands run in this process."""

RAY: dict[str, list[str]] = {
    "ray": [train("--engine ray")],
    "ray_replicas": [train("--engine ray --replicas 2 --n-arms 2 --arms-per-worker 2")],
    "ray_sparse_nb": [train(f"{_CELLS} --likelihood nb --engine ray")],
    "ray_overcluster": [train(f"{_STAGE} --overcluster 2 --coupling agreement --marginal 1 --engine ray")],
    "ray_train": [train("--engine ray_train")],
    "search": [with_defaults("tune {data}/search.yaml", f"{_FEW}/search")],
}
"""Settings that start Ray, in processes of their own."""


def make_data(folder: Path) -> None:
    """Write the generated cells, images and search that the settings use; the same numbers each time."""
    rng = np.random.default_rng(0)
    means_kg = rng.gamma(0.3, 1.0, size=(5, 120))
    for name, n in (("cells", 300), ("new", 90)):
        type_n, state_n = rng.integers(0, 5, n), rng.uniform(-1, 1, n)
        rate_ng = means_kg[type_n] * np.exp(0.5 * state_n[:, None] * (np.arange(120) % 3 == 0))
        counts_ng = rng.poisson(rate_ng)
        obs = pd.DataFrame({"type": type_n.astype(str), "state": state_n}, index=[f"{name}{i}" for i in range(n)])
        adata = anndata.AnnData(sp.csr_matrix(counts_ng.astype(np.float32)), obs=obs)
        adata.var_names = [f"gene{i}" for i in range(120)]
        adata.layers["part"] = sp.csr_matrix(rng.binomial(counts_ng, 0.6).astype(np.float32))
        adata.write_h5ad(folder / f"{name}.h5ad")
        if name == "cells":
            pd.DataFrame(counts_ng, obs.index, adata.var_names).to_csv(folder / "cells.csv")
            obs.to_csv(folder / "metadata.csv", index_label="sample_name")
    across, down = np.meshgrid(np.arange(14), np.arange(12))
    at_n4 = rng.uniform([3, 3, 1, 1], [9, 8, 3, 3], size=(200, 4))[:, :, None, None]
    away = ((across - at_n4[:, 0]) / at_n4[:, 2]) ** 2 + ((down - at_n4[:, 1]) / at_n4[:, 3]) ** 2
    np.savez(
        folder / "images.npz", x=np.exp(-away).astype(np.float32), y=(at_n4[:, 2] > at_n4[:, 3]).ravel().astype(int)
    )
    (folder / "search.yaml").write_text(
        "space: {objective.lam: {loguniform: [0.1, 10]}}\nsearch: {trials: 2, max_concurrent: 1}\n"
    )
