"""The registry of metrics, and what is read from it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cplmix_ray.cli.score_line import score_line
from cplmix_ray.cli.train_command import train
from cplmix_ray.config.files import parse_search
from cplmix_ray.metrics import registry
from cplmix_ray.metrics.registry import METRICS, Metric, find_metric, label_of, mode_of, register_metric
from cplmix_ray.utils.errors import InputError

PAGE = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
FACTS = {"steps", "n_cells", "n_categories", "n_arms", "n_workers", "engine", "seed"}
"""Keys of metrics.json that describe a run and measure nothing."""


@pytest.fixture
def extra() -> Metric:
    """A metric that somebody adds."""
    metric = register_metric(
        Metric("silhouette", "max", "Mean silhouette width.", searchable=True, shown_in=("summary",))
    )
    yield metric
    del METRICS[metric.name]


def test_the_page_names_every_metric_with_its_direction():
    rows = dict(re.findall(r"^\| `(\w+)` \| (max|min|-) \| \S", PAGE, flags=re.MULTILINE))
    assert rows == {metric.name: metric.direction or "-" for metric in METRICS.values()}


def test_the_tables_of_the_page_are_those_of_the_registry():
    assert registry.with_tables(PAGE) == PAGE


def test_everything_in_metrics_json_is_declared(tmp_path):
    line = "--data digits --n-categories 10 --hidden 8 --max-steps 2 --engine local --threads 1 --out"
    train([*line.split(), str(tmp_path / "run")])
    names = set(json.loads((tmp_path / "run" / "metrics.json").read_text()))
    assert {name for name in names if find_metric(name) is None} == FACTS


def test_an_added_metric_can_decide_a_search_and_is_shown(extra):
    tree = {"space": {"model.n_arms": {"grid": [1, 2]}}, "search": {"metric": extra.name}}
    assert parse_search(tree, "test").search.metric == extra.name
    assert mode_of(extra.name) == "max"
    assert "silhouette 0.5" in score_line("All cells", {extra.name: 0.5})


@pytest.mark.parametrize("name", ["silhouette", "populated", "seconds", ""])
def test_a_search_refuses_other_metrics_and_names_those_there_are(name):
    tree = {"space": {"model.n_arms": {"grid": [1, 2]}}, "search": {"metric": name}}
    with pytest.raises(InputError) as caught:
        parse_search(tree, "test")
    words = set(re.findall(r"\w+", str(caught.value)))
    assert {"metric", "auto", *registry.searchable_names()} <= words


def test_a_metric_has_one_meaning_and_a_search_needs_a_direction():
    with pytest.raises(ValueError, match="acc"):
        register_metric(Metric("acc", "max", "Something else."))
    with pytest.raises(ValueError, match="direction"):
        Metric("kept", None, "Share of cells kept.", searchable=True)
    with pytest.raises(ValueError, match="direction"):
        mode_of("populated")


def test_labels_and_validation_names():
    assert (label_of("acc"), label_of("consensus"), label_of("model.n_arms")) == ("ACC", "consensus", "model.n_arms")
    assert find_metric("val_acc") is METRICS["acc"]
    assert find_metric("val_loss") is METRICS["val_loss"]
    assert find_metric("seed") is None


def test_the_registry_imports_nothing_heavy():
    code = (
        "import sys, cplmix_ray.metrics.registry;"
        "print(*{'torch', 'numpy', 'scipy', 'sklearn', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
