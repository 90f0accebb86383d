"""What may be searched, said before anything starts; the options of the command; the folder and the table."""

import csv
import re
from pathlib import Path

import pytest
import yaml

from cplmix_ray.cli.tune_command import _print_result, parse_tune
from cplmix_ray.config.files import load_config, load_search, save_search
from cplmix_ray.config.search import Dimension, Search, SearchConfig, default_search
from cplmix_ray.config.section import Section
from cplmix_ray.data.io.read import read_source
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.tuning.search import SearchResult
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.tuning.search_setup import check_search
from cplmix_ray.tuning.space import check_space, config_at, possible_runs
from cplmix_ray.utils.errors import InputError, TrainingError

TUNE_CONFIGS = Path(__file__).parents[1] / "tune_configs"

SEARCH_OPTIONS = """
    --metric --trials --seeds --searcher --scheduler --grace-steps --reduction --perturb-every --max-concurrent
    --max-hours --trial-failures --search-seed
"""


def spec_of(space: dict, search: dict | None = None, run: dict | None = None) -> SearchConfig:
    return SearchConfig.model_validate({"space": space, "search": search or {}, "run": run or {}})


def file_of(tmp_path, tree) -> Path:
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


SPACE = {"model.n_arms": {"choice": [1, 2]}}


# Dimensions


@pytest.mark.parametrize(
    ("dimension", "wrong"),
    [
        ({}, "choice, grid, uniform and loguniform"),
        ({"choice": [1], "grid": [1]}, "choice, grid, uniform and loguniform"),
        ({"choice": []}, r"choice.*\b1\b"),
        ({"uniform": [2, 1]}, "uniform"),
        ({"uniform": [1, 1]}, "uniform"),
        ({"loguniform": [0, 1]}, r"loguniform.*\b0\b"),
        ({"loguniform": [-1, 1]}, r"loguniform.*\b0\b"),
        ({"uniform": [0, float("inf")]}, "finite"),
        ({"uniform": [0, 1, 2]}, r"uniform.*\b2\b"),
        ({"normal": [0, 1]}, "normal"),
    ],
)
def test_a_wrong_dimension_is_named(tmp_path, dimension, wrong):
    path = file_of(tmp_path, {"space": {"objective.lam": dimension}})
    with pytest.raises(InputError, match=rf"space\.objective\.lam.*{wrong}"):
        load_search(path)


def test_probes_of_a_range_are_its_ends_and_a_number_that_is_not_whole():
    low, between, high = Dimension(uniform=(1, 4)).probes()
    assert (low, high) == (1, 4)
    assert low < between < high
    assert between != int(between)
    assert Dimension(choice=["a", "b"]).probes() == ["a", "b"]


# The space against the settings


@pytest.mark.parametrize(
    ("name", "dimension", "wrong"),
    [
        ("model.n_armz", {"choice": [1]}, r"space\.model\.n_armz\b"),
        ("n_arms", {"choice": [1]}, r"space\.n_arms\b"),
        ("model", {"choice": [{}]}, r"space\.model\b"),
        ("model.n_arms.deep", {"choice": [1]}, r"space\.model\.n_arms\.deep\b"),
        ("model.n_arms", {"choice": [2, 0]}, r"model\.n_arms:.*\b1\b"),
        ("model.n_arms", {"uniform": [1, 4]}, r"model\.n_arms:.*integer"),
        ("model.likelihood", {"choice": ["gaussian", "poisson"]}, r"model\.likelihood"),
        ("objective.lam", {"uniform": [-1, 1]}, r"objective\.lam"),
        ("input.val_fraction", {"uniform": [0.1, 1.0]}, r"input\.val_fraction:.*\b1\b"),
        ("seed", {"choice": [1, 2]}, r"space\.seed\b.*search\.seeds"),
        ("placement.threads", {"choice": [1, 2]}, r"space\.placement\.threads\b"),
        ("training.max_steps", {"choice": [10, 20]}, r"space\.training\.max_steps\b"),
    ],
)
def test_a_space_that_no_run_could_take_is_refused_by_name(name, dimension, wrong):
    with pytest.raises(InputError, match=wrong) as caught:
        check_space(spec_of({name: dimension}))
    assert "\n" not in str(caught.value)


def test_the_same_space_with_sound_values_is_taken():
    check_space(
        spec_of(
            {
                "model.n_arms": {"choice": [1, 4]},
                "objective.lam": {"loguniform": [0.1, 10]},
                "model.hidden": {"grid": [[64], [128, 128]]},
                "copies.drop_genes": {"uniform": [0.0, 0.5]},
            }
        )
    )


def test_population_based_training_varies_only_what_may_change_in_mid_run():
    with pytest.raises(InputError, match=r"model\.n_arms\b.*pbt.*objective\.lam"):
        check_space(spec_of(SPACE, {"scheduler": "pbt"}))
    check_space(spec_of({"objective.lam": {"uniform": [0, 1]}}, {"scheduler": "pbt"}))


@pytest.mark.parametrize(
    ("space", "search", "wrong"),
    [
        ({"model.n_arms": {"grid": [1, 2]}}, {"searcher": "optuna"}, "choice.*grid"),
        ({"objective.lam": {"uniform": [0, 1]}}, {"scheduler": "pbt", "seeds": 2}, r"seeds.*\b1\b"),
        ({"objective.lam": {"uniform": [0, 1]}}, {"scheduler": "pbt", "searcher": "optuna"}, "pbt.*random"),
        ({"model.n_arms": {"grid": [1, 2]}}, {"trials": 2}, "trials.*seeds"),
        ({}, {}, "space"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(tmp_path, space, search, wrong):
    with pytest.raises(InputError, match=wrong):
        load_search(file_of(tmp_path, {"space": space, "search": search}))


def test_a_point_becomes_the_settings_of_a_run():
    config = config_at(CplMixVAEConfig(), {"model.n_arms": 4, "objective.lam": 0.25}, seed=7)
    assert (config.model.n_arms, config.objective.lam, config.seed) == (4, 0.25, 7)
    assert config.training == CplMixVAEConfig().training
    assert config_at(CplMixVAEConfig(), {}) == CplMixVAEConfig()


def test_possible_runs_have_every_value_of_the_space_and_the_base_run_for_the_rest():
    space = {**SPACE, "objective.lam": {"choice": [3.0, 4.0]}}
    runs = possible_runs(spec_of(space, run={"model": {"n_categories": 6, "n_arms": 7}}))
    assert {run.model.n_arms for run in runs} == {1, 2}
    assert {run.objective.lam for run in runs} == {3.0, 4.0}
    assert {run.model.n_categories for run in runs} == {6}


def test_values_that_do_not_go_together_are_no_possible_run():
    space = {"alignment.align_steps": {"choice": [0, 5]}, "model.overcluster": {"choice": [1, 2]}}
    runs = possible_runs(spec_of(space, run={"alignment": {"align_steps": 5}}))
    assert {(run.alignment.align_steps, run.model.overcluster) for run in runs} == {(0, 1), (5, 1)}


@pytest.mark.parametrize(
    ("space", "trials", "n"),
    [
        ({"model.n_arms": {"choice": [1, 2]}}, 5, 5),
        ({"model.n_arms": {"choice": [1, 2]}}, None, 8),
        ({"model.n_arms": {"grid": [1, 2]}}, None, 2),
        ({"model.n_arms": {"grid": [1, 2, 4]}, "model.n_categories": {"grid": [8, 10]}}, 1, 6),
        ({"model.n_arms": {"grid": [1, 2, 4]}, "objective.lam": {"uniform": [0, 1]}}, 2, 6),
    ],
)
def test_trials_are_draws_times_grid_points(space, trials, n):
    assert spec_of(space, {"trials": trials}).n_trials() == n


# The space against the data


def test_accuracy_decides_where_there_are_labels_and_agreement_where_there_are_none():
    source = read_source("digits")
    space = {"model.n_arms": {"choice": [2, 3]}}
    assert check_search(spec_of(space), source) == "acc"
    from dataclasses import replace

    unlabelled = replace(source, labels_n=None)
    assert check_search(spec_of(space), unlabelled) == "agreement"
    with pytest.raises(InputError, match=r"--metric ari\b.*--metric agreement"):
        check_search(spec_of(space, {"metric": "ari"}), unlabelled)
    with pytest.raises(InputError, match=r"--metric agreement\b.*\b1\b"):
        check_search(spec_of(SPACE), unlabelled)


def test_ray_train_is_not_nested_in_a_search():
    spec = spec_of(SPACE, run={"placement": {"engine": "ray_train"}})
    with pytest.raises(InputError, match="ray_train"):
        check_search(spec, read_source("digits"))


def test_schedulers_need_cells_to_compare_trials_on():
    spec = spec_of({"objective.lam": {"uniform": [0, 1]}}, {"scheduler": "asha"}, {"input": {"val_fraction": 0}})
    with pytest.raises(InputError, match=r"--scheduler asha.*--val-fraction"):
        check_search(spec, read_source("digits"))


def test_more_categories_than_cells_are_noticed_before_the_start():
    spec = spec_of({"model.n_categories": {"choice": [10, 2000]}})
    with pytest.raises(InputError, match=r"digits.*1797.*2000"):
        check_search(spec, read_source("digits"))


# Files and the command line


SEARCHES = sorted(path for path in TUNE_CONFIGS.glob("*.yaml") if not path.stem.startswith("bench_"))


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_shipped_searches_vary_arms_coupling_and_categories(path):
    assert {"model.n_arms", "objective.lam", "model.n_categories"} <= set(load_search(path).space)


def test_what_is_searched_with_nothing_given_is_the_shipped_file():
    assert load_search(TUNE_CONFIGS / "digits.yaml") == default_search()
    assert parse_tune([])[1] == default_search()


def test_what_is_saved_is_what_is_loaded(tmp_path):
    spec = spec_of({"model.hidden": {"choice": [[8], [8, 8]]}, "objective.lam": {"loguniform": [0.1, 1]}}, {"seeds": 3})
    save_search(spec, tmp_path / "search.yaml")
    assert load_search(tmp_path / "search.yaml") == spec


def test_a_file_of_a_run_names_nothing_to_search(tmp_path):
    path = file_of(tmp_path, {"model": {"n_arms": 3}})
    assert load_config(path).model.n_arms == 3
    with pytest.raises(InputError, match=r"\bspace\b"):
        load_search(path)


def test_the_options_of_tune_are_those_of_train_and_of_the_search(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        parse_tune(["--help"])
    assert caught.value.code == 0
    found = re.findall(r"^\W{0,4}(?:-h, )?(--[a-z][a-z-]*)", capsys.readouterr().out, flags=re.MULTILINE)
    sections = [part for _, part in CplMixVAEConfig() if isinstance(part, Section)]
    run = {f"--{name.replace('_', '-')}" for part in sections for name in type(part).model_fields}
    assert set(found) == {"--help", "--out", "--resume", "--seed", "--family", *SEARCH_OPTIONS.split(), *run}
    assert len(found) == len(set(found))
    assert {f"--{name.replace('_', '-')}" for name in Search.model_fields} == set(SEARCH_OPTIONS.split())


def test_the_line_goes_before_the_file(tmp_path):
    path = file_of(tmp_path, {"space": SPACE, "search": {"trials": 3}, "run": {"model": {"state_dim": 5}}})
    _, spec = parse_tune([str(path), "--trials", "7", "--max-steps", "30"])
    assert (spec.search.trials, spec.run.training.max_steps, spec.run.model.state_dim) == (7, 30, 5)
    assert set(spec.space) == set(SPACE)


def test_a_setting_that_is_searched_cannot_be_fixed_on_the_line(tmp_path):
    path = file_of(tmp_path, {"space": SPACE})
    with pytest.raises(InputError, match=r"--n-arms.*model\.n_arms"):
        parse_tune([str(path), "--n-arms", "3"])


def test_a_line_that_does_not_go_with_the_file_is_refused(tmp_path):
    path = file_of(tmp_path, {"space": {"model.n_arms": {"grid": [1, 2]}}})
    with pytest.raises(InputError, match=r"choice.*grid") as caught:
        parse_tune([str(path), "--searcher", "optuna"])
    assert "\n" not in str(caught.value)


def test_a_resumed_search_has_its_own_settings(tmp_path):
    spec = spec_of(SPACE, {"trials": 3})
    save_search(spec, tmp_path / "search.yaml")
    assert parse_tune(["--resume", "--out", str(tmp_path)])[1] == spec
    with pytest.raises(InputError, match="--resume --out DIR"):
        parse_tune(["--resume", "--out", str(tmp_path), "--trials", "9"])
    with pytest.raises(InputError, match="--resume --out DIR"):
        parse_tune(["--resume", "--out", str(tmp_path), "--batch-size", "9"])
    longer = parse_tune(["--resume", "--out", str(tmp_path), "--max-hours", "3"])[1]
    assert longer.search == spec.search.model_copy(update={"max_hours": 3.0})
    moved = parse_tune(["--resume", "--out", str(tmp_path), "--threads", "2"])[1]
    assert moved.run.placement.threads == 2
    with pytest.raises(InputError, match=r"--resume.*--out"):
        parse_tune(["--resume"])
    with pytest.raises(InputError, match="none"):
        parse_tune(["--resume", "--out", str(tmp_path / "none")])


# The folder


def test_trials_get_names_that_none_has(tmp_path):
    folder = SearchFolder(tmp_path)
    assert [folder.next_trial() for _ in range(3)] == ["0000", "0001", "0002"]
    assert SearchFolder(tmp_path).next_trial() == "0003"


def test_a_search_or_a_run_is_not_overwritten(tmp_path):
    folder = SearchFolder(tmp_path / "new")
    folder.require_room(resume=False)
    folder.next_trial()
    with pytest.raises(InputError, match=re.escape(str(folder.path))):
        folder.require_room(resume=False)
    folder.require_room(resume=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "run"))):
        SearchFolder(tmp_path / "run").require_room(resume=False)


def test_the_table_is_whole_after_every_change(tmp_path):
    from cplmix_ray.tuning.export import best_trial
    from cplmix_ray.tuning.records import TrialState
    from cplmix_ray.tuning.results_table import ResultsTable

    shown = []
    table = ResultsTable(SearchFolder(tmp_path), ["model.n_arms"], lambda trials: shown.append(len(trials)))
    done = TrialState("0001", "done", {"model.n_arms": 2}, {"score": 0.5, "step": 30, "acc": 0.5})
    stopped = TrialState("0000", "stopped", {"model.n_arms": 3}, {"score": 0.9, "step": 10})
    failed = TrialState("0002", "failed", {"model.n_arms": 1}, {}, "no, because: of commas, and\nlines")
    table.update([done, stopped])
    table.update([done, stopped, failed])
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0000", "0001", "0002"]
    assert [row["status"] for row in rows] == ["stopped", "done", "failed"]
    assert rows[1]["model.n_arms"] == "2"
    assert rows[1]["acc"] == "0.5"
    assert rows[2]["error"].startswith("no, because: of commas")
    assert shown == [2, 3]
    assert best_trial([done, stopped, failed], "max") is done, "a trial that was stopped early has no model to export"
    better = TrialState("0003", "done", {}, {"score": 0.4})
    assert best_trial([done, better], "max") is done
    assert best_trial([done, better], "min") is better
    assert best_trial([stopped, failed], "max") is None


def test_time_over_before_the_first_trial_ends_is_the_error_and_names_the_remedy(tmp_path):
    spec = spec_of(SPACE, {"trials": 3, "max_hours": 0.5})
    with pytest.raises(TrainingError, match=r"0\.5 hours.*--resume.*--max-hours"):
        _print_result(SearchResult([], None, None, "agreement"), spec, tmp_path, 1800)
