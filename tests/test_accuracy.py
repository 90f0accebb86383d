"""Real runs, scored: slow, and with real cells only where there are some.

The variable CPLMIX_RAY_DATA names a folder that may hold worm_neuron.h5ad (4,186 C. elegans neurons, raw counts, ten
types under obs["cell_type"]).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans

from cplmix_ray.config import load_config
from cplmix_ray.data.io.read import read_source
from cplmix_ray.data.neighbors.principal_components import principal_components
from cplmix_ray.metrics.category_scores import label_scores
from cplmix_ray.models.registry import build_dataset

pytestmark = pytest.mark.slow
WORM = Path(os.environ.get("CPLMIX_RAY_DATA", "")) / "worm_neuron.h5ad"


def train(out: Path, *words: str) -> dict:
    command = [sys.executable, "-m", "cplmix_ray.train", "--out", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "metrics.json").read_text())


def test_the_default_run_finds_the_digits_and_its_arms_agree(tmp_path):
    metrics = [train(tmp_path / str(seed), "--seed", str(seed)) for seed in range(2)]
    assert np.mean([m["acc"] for m in metrics]) > 0.65
    assert min(m["consensus"] for m in metrics) > 0.8
    assert min(m["populated"] for m in metrics) >= 9


def test_the_recipe_for_dsprites_tells_the_shapes_apart(tmp_path):
    """A tenth of its images and half its steps."""
    words = ["--preset", "dsprites", "--subset", "5000", "--max-steps", "200", "--seed", "0", "--engine", "local"]
    metrics = train(tmp_path / "run", *words)
    assert metrics["acc"] > 0.963
    assert metrics["populated"] == 3


@pytest.mark.skipif(not WORM.is_file(), reason="needs worm_neuron.h5ad in the folder that CPLMIX_RAY_DATA names")
def test_worm_neurons_beat_k_means_on_the_same_matrix(tmp_path):
    """Means over three seeds against k-means on 50 principal components, ten restarts each."""
    recipe = Path(__file__).parents[1] / "tune_configs" / "cells.yaml"
    words = ["--config", str(recipe), "--data", str(WORM), "--labels-key", "cell_type", "--n-categories", "10"]
    runs = [train(tmp_path / str(seed), *words, "--seed", str(seed)) for seed in range(3)]
    source = read_source(str(WORM), None, "cell_type")
    values = build_dataset(source, load_config(recipe)).training.matrix.block()
    points = principal_components(values, 50, 0)
    rival = [
        label_scores(source.labels_n, KMeans(10, n_init=10, random_state=seed).fit_predict(points)) for seed in range(3)
    ]
    for name in ("acc", "ari", "nmi"):
        assert np.mean([r[name] for r in runs]) > np.mean([r[name] for r in rival]), name
