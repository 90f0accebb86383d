"""Settings: their names, bounds and types, as YAML and as a command line."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from refusals import naming

from cplmix_ray.cli.train_command import parse_train
from cplmix_ray.config import Training, load_config, load_preset, save_config
from cplmix_ray.config.files import dump_config, load_search, parse_config
from cplmix_ray.config.section import Section
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.tuning.space import check_space
from cplmix_ray.utils.errors import InputError

# Scripts depend on these names. Adding or renaming one is a decision, and this list is where it is taken.
TRAIN_OPTIONS = """
    --family --preset --config --out --resume --seed --seeds
    --data --metadata --subset --backed --layer --labels-key --state-key --genes --normalise --target-sum
    --hvg --val-fraction --batch-key --covariates
    --copies --n-neighbours --neighbour-pcs --neighbour-space --rotation --zoom --shift --shear --stretch
    --content-radius --thinning-keep --drop-genes --expression-noise --augmenter
    --n-categories --n-arms --min-cells-per-category --overcluster --state-dim --hidden --bottleneck --encoder-view
    --batch-norm --input-dropout --posterior --tau
    --gumbel-temperature --likelihood --dispersion --decoder --reconstruct --state-given-category --shared-parameters
    --coupling --lam --reconstruction --beta --entropy --marginal --guess --sigma-floor
    --align-steps --align-coupling --align-entropy --align-marginal --align-guess --initial-clustering --mixture-start
    --max-steps --epochs --batch-size --lr --lr-schedule --lr-warmup --lam-warmup --clip
    --log-every --evaluate-every --checkpoint-every --keep-checkpoints
    --engine --arms-per-worker --device --threads --ray-address --collective-timeout --cluster-grows-to
    --max-failures --train-storage --precision --replicas
"""

OTHER = {
    "input": {"data": "cells.h5ad", "layer": "counts", "labels_key": "type", "normalise": "none", "hvg": 50},
    "copies": {"copies": ["neighbours", "gene_dropout"], "n_neighbours": 4, "drop_genes": 0.35},
    "model": {"n_categories": 7, "n_arms": 3, "hidden": [64, 32, 16], "tau": 0.05, "shared_parameters": True},
    "objective": {"beta": 0.5, "lam": 0.0, "sigma_floor": 1e-4, "coupling": "euclidean", "entropy": -2.0},
    "alignment": {"align_steps": 4, "align_coupling": "aitchison", "align_marginal": 0.5},
    "training": {"epochs": 12, "clip": 10.0, "lr_schedule": "cosine", "batch_size": 31},
    "placement": {"engine": "local", "collective_timeout": 60.0},
    "seed": 2**32 - 1,
}


def sections() -> dict[str, type[Section]]:
    return {name: type(part) for name, part in CplMixVAEConfig() if isinstance(part, Section)}


def test_the_other_settings_of_this_file_differ_from_the_defaults_in_every_section():
    """Else a round trip that loses a section would not show."""
    config = parse_config(OTHER)
    assert all(getattr(config, name) != getattr(CplMixVAEConfig(), name) for name in OTHER)
    assert {"family", *OTHER} == set(CplMixVAEConfig.model_fields)


@pytest.mark.parametrize("tree", [{}, OTHER], ids=["defaults", "others"])
def test_what_is_saved_is_what_is_loaded(tmp_path, tree):
    config = parse_config(tree)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_the_file_holds_every_setting_of_every_section():
    tree = yaml.safe_load(dump_config(CplMixVAEConfig()))
    assert list(tree) == list(CplMixVAEConfig.model_fields)
    for name, section in sections().items():
        assert list(tree[name]) == list(section.model_fields)


def test_a_file_may_hold_a_few_settings_and_the_rest_have_their_defaults(tmp_path):
    path = tmp_path / "few.yaml"
    path.write_text("model: {n_arms: 4}\nseed: 9\n")
    config = load_config(path)
    assert (config.model.n_arms, config.seed) == (4, 9)
    assert config.model.n_categories == CplMixVAEConfig().model.n_categories
    assert config.training == CplMixVAEConfig().training


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load_config(tmp_path / "empty.yaml") == CplMixVAEConfig()


UNKNOWN = ["model.n_armz", "input.labels", "training.learning_rate", "seeds", "optimiser"]
OUT_OF_RANGE = [
    ("seed", -1),
    ("seed", 2**32),
    ("input.val_fraction", 1.0),
    ("input.val_fraction", -0.1),
    ("input.hvg", 1),
    ("input.target_sum", 0),
    ("input.target_sum", 2e12),
    ("input.target_sum", float("nan")),
    ("copies.n_neighbours", 0),
    ("copies.thinning_keep", 0.0),
    ("copies.drop_genes", 1.0),
    ("model.n_categories", 0),
    ("model.n_arms", 0),
    ("model.state_dim", 0),
    ("model.hidden", [64, 0]),
    ("model.hidden", [-3]),
    ("model.bottleneck", 0),
    ("model.tau", 0.0),
    ("model.tau", float("nan")),
    ("model.gumbel_temperature", float("inf")),
    ("objective.lam", -1.0),
    ("objective.beta", float("nan")),
    ("objective.sigma_floor", 0.0),
    ("training.max_steps", 0),
    ("training.epochs", 0),
    ("training.batch_size", 0),
    ("training.lr", 0.0),
    ("training.clip", -1.0),
    ("training.keep_checkpoints", 0),
    ("placement.arms_per_worker", 0),
    ("placement.collective_timeout", 0.0),
    ("placement.max_failures", -1),
]
WRONG_TYPE = [
    ("seed", "lucky"),
    ("seed", 1.5),
    ("input.data", 3),
    ("input.normalise", "sometimes"),
    ("input.target_sum", "mean"),
    ("input.target_sum", True),
    ("copies.copies", "neighbours"),
    ("copies.copies", []),
    ("model.n_categories", "ten"),
    ("model.n_arms", 2.5),
    ("model.n_arms", None),
    ("model.hidden", 64),
    ("model.hidden", ["wide"]),
    ("model.batch_norm", "perhaps"),
    ("model.likelihood", "poisson"),
    ("training.lr", [1e-3]),
    ("training.lr_schedule", "linear"),
    ("placement.engine", "spark"),
    ("placement.device", "tpu"),
    ("model", None),
    ("training", [1, 2]),
]


def nested(dotted: str, value: object) -> dict:
    *section, name = dotted.split(".")
    return {section[0]: {name: value}} if section else {name: value}


@pytest.mark.parametrize(
    ("dotted", "value"),
    [*((name, 1) for name in UNKNOWN), *OUT_OF_RANGE, *WRONG_TYPE],
    ids=lambda item: str(item),
)
def test_a_wrong_setting_is_named_with_its_section_in_one_line(dotted, value):
    with pytest.raises(InputError, match=rf"^here\.yaml: {re.escape(dotted)}\b") as caught:
        parse_config(nested(dotted, value), "here.yaml")
    assert "\n" not in str(caught.value)
    assert "http" not in str(caught.value)


def test_a_setting_that_does_not_exist_is_called_so():
    with pytest.raises(InputError, match=r"training\.max_step: there is no such setting"):
        parse_config({"training": {"max_step": 60}})


def test_all_wrong_settings_are_named_at_once():
    tree = {"model": {"n_arms": 0, "n_armz": 2}, "training": {"lr": -1}}
    with pytest.raises(InputError) as caught:
        parse_config(tree)
    assert all(name in str(caught.value) for name in ("model.n_arms:", "model.n_armz:", "training.lr:"))


@pytest.mark.parametrize("kinds", [["auto", "affine"], ["neighbours", "none"]])
def test_auto_and_none_are_no_part_of_a_chain_of_copies(kinds):
    with pytest.raises(InputError, match=naming("copies", "'auto'", "'none'")):
        parse_config({"copies": {"copies": kinds}})


@pytest.mark.parametrize("text", ["- model\n- training\n", "just words\n", "42\n"], ids=["list", "words", "number"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(InputError, match=r"odd\.yaml"):
        load_config(tmp_path / "odd.yaml")


@pytest.mark.parametrize("name", ["input", "copies", "model", "objective", "training", "placement", "seed"])
def test_a_configuration_is_frozen(name):
    config = CplMixVAEConfig()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, name, getattr(config, name))


def test_a_section_is_frozen_and_so_is_what_it_holds():
    config = CplMixVAEConfig()
    for name, section in sections().items():
        part = getattr(config, name)
        for field in section.model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(part, field, getattr(part, field))
            hash(getattr(part, field))  # a list could be altered in place
    assert config == CplMixVAEConfig()


def test_names_are_unique_across_sections():
    """The command line uses bare names."""
    names = [field for section in sections().values() for field in section.model_fields]
    names += ["seed", "config", "out", "resume", "seeds"]
    assert sorted(names) == sorted(set(names))


def test_every_setting_has_words_for_help():
    for section in sections().values():
        assert all(field.description for field in section.model_fields.values())


def test_the_options_of_train_are_these(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        parse_train(["--help"])
    assert caught.value.code == 0
    options = re.findall(r"^\W{0,2}(?:-h, )?(--[a-z][a-z-]*)", capsys.readouterr().out, flags=re.MULTILINE)
    assert sorted(options) == sorted(["--help", *TRAIN_OPTIONS.split()])


def test_the_options_are_the_settings_by_their_bare_names():
    names = [field for section in sections().values() for field in section.model_fields]
    options = {
        f"--{name.replace('_', '-')}"
        for name in [*names, "family", "seed", "preset", "config", "out", "resume", "seeds"]
    }
    assert options == set(TRAIN_OPTIONS.split())


@pytest.mark.parametrize("name", ["shared-parameters", "batch-norm", "state-given-category"])
@pytest.mark.parametrize(("word", "value"), [("False", False), ("True", True)])
def test_a_switch_is_what_the_line_says(name, word, value):
    settings = parse_train([f"--{name}", word]).settings
    assert getattr(settings.model, name.replace("-", "_")) is value


def test_seed_zero_is_a_seed(tmp_path):
    (tmp_path / "five.yaml").write_text("seed: 5\n")
    line = ["--config", str(tmp_path / "five.yaml")]
    assert parse_train(line).settings.seed == 5
    assert parse_train([*line, "--seed", "0"]).settings.seed == 0


@pytest.mark.parametrize("joined", [False, True], ids=["--config FILE", "--config=FILE"])
def test_the_line_goes_before_the_file_and_the_file_before_the_defaults(tmp_path, joined):
    path = tmp_path / "settings.yaml"
    path.write_text("model: {n_arms: 4, n_categories: 6}\ntraining: {lr: 0.25}\n")
    line = [f"--config={path}"] if joined else ["--config", str(path)]
    settings = parse_train([*line, "--n-arms", "3"]).settings
    assert settings.model.n_arms == 3
    assert (settings.model.n_categories, settings.training.lr) == (6, 0.25)
    assert settings.model.bottleneck == CplMixVAEConfig().model.bottleneck


def test_the_line_can_take_back_what_the_file_set(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("model: {tau: 0.5, shared_parameters: true}\ninput: {hvg: 100}\n")
    line = ["--config", str(path), "--tau", "None", "--hvg", "None", "--shared-parameters", "False"]
    assert parse_train(line).settings == CplMixVAEConfig()


def test_several_values_stand_side_by_side_on_the_line():
    settings = parse_train(["--hidden", "64", "32", "--copies", "neighbours", "gene_dropout"]).settings
    assert settings.model.hidden == (64, 32)
    assert settings.copies.copies == ("neighbours", "gene_dropout")


def test_a_resumed_run_has_its_own_settings_unless_the_line_says_otherwise(tmp_path):
    save_config(parse_config(OTHER), tmp_path / "config.yaml")
    line = ["--resume", "--out", str(tmp_path)]
    assert parse_train(line).settings == parse_config(OTHER)
    assert parse_train([*line, "--seed", "1"]).settings.seed == 1
    assert parse_train(["--out", str(tmp_path)]).settings == load_preset("mnist")


@pytest.mark.parametrize(
    ("max_steps", "epochs", "batch_size", "n_train", "steps"),
    [
        (None, None, 256, 1000, 2000),
        (30, None, 256, 1000, 30),
        (None, 3, 100, 1000, 30),
        (20, 3, 100, 1000, 20),
        (40, 3, 100, 1000, 30),
        (None, 3, 300, 1000, 9),  # the incomplete fourth minibatch of an epoch is left out
        (None, 3, 1000, 1000, 3),
        (None, 3, 5000, 1000, 3),  # the minibatch is all cells
        (2, 3, 5000, 1, 2),
        (5, 3, 5000, 1, 3),
    ],
)
def test_steps_end_at_max_steps_or_epochs_whichever_comes_first(max_steps, epochs, batch_size, n_train, steps):
    training = Training(max_steps=max_steps, epochs=epochs, batch_size=batch_size)
    assert training.steps(n_train) == steps


@pytest.mark.parametrize(("tau", "k", "temperature"), [(None, 10, 0.1), (None, 1, 1.0), (0.3, 10, 0.3)])
def test_the_temperature_is_tau_or_one_over_k(tau, k, temperature):
    assert parse_config({"model": {"tau": tau, "n_categories": k}}).model.temperature == pytest.approx(temperature)


@pytest.mark.parametrize(
    "path",
    [p for p in sorted((Path(__file__).parents[1] / "tune_configs").glob("*.yaml")) if "bench_" not in p.name],
    ids=lambda p: p.stem,
)
def test_the_shipped_configurations_are_valid_for_a_run_and_for_a_search(path):
    spec = load_search(path)
    check_space(spec)
    assert load_config(path) == spec.run
