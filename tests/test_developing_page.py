"""The examples of docs/developing.md run, and the files that the page names are there."""

import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from test_imports import MODULES, folder_of, own_imports

import cplmix_ray
from cplmix_ray.checkpoints.checkpoint import latest_checkpoint
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.score_line import score_line
from cplmix_ray.cli.train_command import train
from cplmix_ray.config import families
from cplmix_ray.data.io import cell_format
from cplmix_ray.data.io.read import read_source
from cplmix_ray.metrics.registry import METRICS
from cplmix_ray.models import registry as models
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.registry import AUGMENTATIONS, COUPLINGS, LIKELIHOODS

PACKAGE = Path(cplmix_ray.__file__).parent
PAGE = (Path(__file__).parents[1] / "docs" / "developing.md").read_text(encoding="utf-8")
ADDED = {
    "laplace": LIKELIHOODS._entries,
    "log_euclidean": COUPLINGS._entries,
    "brightness": AUGMENTATIONS._entries,
    "largest_share": METRICS,
    "NumPy array": cell_format._FORMATS,
    "linear": models._FAMILIES,
}
"""What the examples register, and where."""


@pytest.fixture(scope="module", autouse=True)
def page() -> Iterator[types.ModuleType]:
    """A module of all examples, in their order; what they register is taken out again."""
    module = types.ModuleType("developing_page")
    sys.modules[module.__name__] = module
    try:
        for block in re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE):
            exec(compile(block, "docs/developing.md", "exec"), vars(module))
        assert all(name in entries for name, entries in ADDED.items())
        yield module
    finally:
        del sys.modules[module.__name__]
        for name, entries in ADDED.items():
            entries.pop(name, None)
        families._CLASSES.pop("linear", None)


def trained(out: Path, *options: str) -> dict:
    train(["--out", str(out), "--engine", "local", "--threads", "1", "--log-every", "1", *options])
    return json.loads((out / "metrics.json").read_text())


def test_likelihood_coupling_and_augmentation_train_together(page, tmp_path):
    x_ng, out_ng = torch.rand(4, 3), torch.randn(4, 3)
    expected_n = torch.distributions.Laplace(out_ng, 1.0).log_prob(x_ng).sum(-1)
    torch.testing.assert_close(page.Laplace().log_prob(x_ng, out_ng), expected_n)
    options = ["--likelihood", "laplace", "--coupling", "log_euclidean", "--copies", "brightness", "--hidden", "16"]
    metrics = trained(tmp_path / "run", *options, "--max-steps", "30", "--subset", "300")
    floor = 64 * np.log(2)  # of a reconstruction without error
    assert floor < metrics["reconstruction"] < floor + 64 * 0.5


def test_the_metric_is_shown(page):
    share = page.largest_share(np.array([0, 0, 1, 0]))
    assert share == 0.75
    assert score_line("All cells", {"largest_share": share}) == "All cells: largest_share 0.75"


def test_the_format_is_read_and_refuses_what_it_is_not(tmp_path):
    path = tmp_path / "cells.npy"
    values_ng = np.random.default_rng(0).random((5, 3))
    np.save(path, values_ng)
    source = read_source(str(path))
    np.testing.assert_array_equal(source.matrix.block(), values_ng)
    np.save(path, np.array([{"no": "numbers"}]))
    with pytest.raises(InputError, match=r"cells\.npy"):
        read_source(str(path))


def test_the_family_trains_resumes_bitwise_and_predicts(tmp_path):
    options = ["--family", "linear", "--subset", "200", "--batch-size", "50", "--model.latent-dim", "3"]
    whole = trained(tmp_path / "whole", *options, "--max-steps", "40")
    assert whole["latent_variance"] > 0
    trained(tmp_path / "parts", *options, "--max-steps", "15")
    trained(tmp_path / "parts", *options, "--max-steps", "40", "--resume")
    ends = [latest_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("whole", "parts")]
    assert ends[0] is not None and ends[1] is not None
    assert ends[0].parts["linear"].keys() == {"weight", "step", "exp_avg", "exp_avg_sq"}
    for name, tensor in ends[0].parts["linear"].items():
        assert torch.equal(tensor, ends[1].parts["linear"][name]), name
    out = tmp_path / "annotated.h5ad"
    predict(["--run", str(tmp_path / "whole"), "--data", "digits", "--subset", "20", "--out", str(out)])
    assert anndata.read_h5ad(out).obsm["cplmix_latent_nd"].shape == (20, 3)


def test_every_file_that_the_page_names_is_there():
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE))
    assert len(named) > 40
    root = PACKAGE.parent
    missing = [name for name in sorted(named) if not ((PACKAGE / name).exists() or (root / name).exists())]
    assert not missing


def test_the_folders_of_the_page_stand_in_the_order_of_imports():
    place = {name: at for at, name in enumerate(re.findall(r"^\| `(\w+)/`", PAGE, flags=re.MULTILINE))}
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(place)
    upward = {
        (folder_of(module), folder_of(target))
        for module in MODULES
        for target, _ in own_imports(module)
        if {folder_of(module), folder_of(target)} <= set(place) and place[folder_of(target)] > place[folder_of(module)]
    }
    assert not upward
