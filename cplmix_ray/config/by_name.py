"""Settings given by their names, without their sections, as in ``CplMixVAE(adata, lr=1e-3)``."""

import difflib
from typing import Any

import numpy as np

from cplmix_ray.config.files import parse_config
from cplmix_ray.config.run import RunConfig
from cplmix_ray.utils.errors import ArgumentTypeError

_OF_FILES = ("data", "metadata", "subset", "backed", "family")
_OF_SETUP = {
    "layer": "layer",
    "labels_key": "labels_key",
    "batch_key": "batch_key",
    "covariates": "categorical_covariate_keys or continuous_covariate_keys",
    "categorical_covariate_keys": "categorical_covariate_keys",
    "continuous_covariate_keys": "continuous_covariate_keys",
}
"""Settings of the commands that the object itself takes the place of, and those of its setup -> arguments of that."""
_IN_OTHER_PACKAGES = {
    "accelerator": "device",
    "dropout_rate": "input_dropout",
    "gene_likelihood": "likelihood",
    "learning_rate": "lr",
    "max_epochs": "epochs",
    "n_clusters": "n_categories",
    "n_hidden": "hidden",
    "n_latent": "state_dim",
    "n_top_genes": "hvg",
    "random_state": "seed",
}
"""What scvi-tools, scanpy or scikit-learn call a setting -> its name here, for the message about an unknown name."""


def with_settings(base: RunConfig, settings: dict[str, Any]) -> RunConfig:
    """``base`` with settings given by their names, without their sections."""
    tree = base.model_dump()
    section_of = {name: section for section, part in tree.items() if isinstance(part, dict) for name in part}
    top = {*tree} - {*section_of.values()}
    known = (top | {*section_of}) - {*_OF_FILES, *_OF_SETUP}
    for name, given in settings.items():
        value = given.tolist() if isinstance(given, np.generic | np.ndarray) else given
        if name in _OF_SETUP:
            raise ArgumentTypeError(f"{name} is no setting; give {_OF_SETUP[name]} to CplMixVAE.setup_anndata.")
        if name not in known:
            meant = _IN_OTHER_PACKAGES.get(name)
            near = [meant] if meant else difflib.get_close_matches(name, known, 3) or sorted(known)
            raise ArgumentTypeError(f"There is no setting '{name}'; there is {', '.join(near)}.")
        section = tree[section_of[name]] if name in section_of else tree
        section[name] = (value,) if isinstance(value, str) and isinstance(section[name], tuple) else value
    return parse_config(tree, "CplMixVAE")
