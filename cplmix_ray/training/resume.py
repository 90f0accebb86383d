"""Whether and from where a run can go on."""

from collections.abc import Callable
from pathlib import Path

from cplmix_ray.checkpoints.checkpoint import Checkpoint, latest_checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config import Config
from cplmix_ray.config.files import load_config, parse_config
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.io.augmenter_file import MANIFEST
from cplmix_ray.utils.errors import InputError

_MAY_CHANGE = {
    "placement": None,
    "input": {"data", "metadata", "labels_key", "state_key"},
    "copies": {"augmenter"},  # where it lies; what it is, is compared by its checksum
    "training": {"max_steps", "epochs", "log_every", "evaluate_every", "checkpoint_every", "keep_checkpoints"},
}
"""Settings that a resumed run may change: where it runs, how long, what it writes. All else is what it is."""


def checkpoint_to_resume(
    folder: RunFolder, config: Config, data: Dataset, say: Callable[[str], None], anew: bool = False
) -> Checkpoint | None:
    """The newest whole checkpoint of the folder, or None where there is nothing to go on with.

    Args:
        anew: whether a run none of whose checkpoints is whole starts at step 0. That loses no more than time, but much
            of it perhaps, so a person is asked.

    Raises:
        InputError: no checkpoint is whole, or the settings or the data are not those of the run.
    """
    checkpoint, wrong = latest_checkpoint(folder.checkpoints)
    if checkpoint is None and wrong and not anew:
        raise InputError(
            f"No checkpoint in {folder.checkpoints} is whole ({'; '.join(wrong)}); put a copy of one there, or remove "
            f"that folder to start at step 0."
        )
    for line in wrong:
        say(f"{line} and is passed over.")
    if checkpoint is None:
        say(f"{folder.path} holds no whole checkpoint; training starts at step 0.")
        return None
    saved = settings_of(checkpoint)
    changed = _changed(_in_memory_unless_said(saved.model_dump()), _in_memory_unless_said(config.model_dump()))
    if changed:
        raise InputError(
            f"The run in {folder.path} has other settings for {', '.join(changed)}; leave them as they were."
        )
    names = tuple(checkpoint.manifest["preparation"]["var_names"])
    if names != data.training.preparation.var_names or checkpoint.manifest["n_cells"] != data.n_cells:
        raise InputError(f"The run in {folder.path} was trained on other cells or genes than {data.name}.")
    augmenter = data.training.augmenter
    if checkpoint.manifest.get("augmenter") != (None if augmenter is None else augmenter.checksum):
        raise InputError(
            f"The run in {folder.path} has other learned copies than those of {config.copies.augmenter}; name the "
            f"augmenter that it began with by --augmenter."
        )
    say(f"Going on from {checkpoint.path}.")
    return checkpoint


def settings_of(checkpoint: Checkpoint) -> Config:
    """The settings of the run that wrote a checkpoint.

    Raises:
        InputError: it says nothing of them, or what this version does not know.
    """
    if "config" not in checkpoint.manifest:
        raise InputError(f"{checkpoint.path} is no checkpoint of a run: its manifest names no settings.")
    return parse_config(checkpoint.manifest["config"], str(checkpoint.path))


def with_kept_augmenter(folder: RunFolder, config: Config) -> Config:
    """The settings with the run's own augmenter in place of one whose folder is gone."""
    given = config.copies.augmenter
    if given is None or (Path(given) / MANIFEST).exists() or not (folder.augmenter / MANIFEST).exists():
        return config
    return config.model_copy(update={"copies": config.copies.model_copy(update={"augmenter": str(folder.augmenter)})})


def with_own_reading(folder: RunFolder, config: Config) -> Config:
    """The settings with --backed auto as it was resolved when the run began: the order of its cells depends on it."""
    if config.input.backed != "auto" or not folder.config.exists():
        return config
    own = load_config(folder.config).input.backed
    return config.model_copy(update={"input": config.input.model_copy(update={"backed": own})})


def _in_memory_unless_said(tree: dict) -> dict:
    """'auto' is left where cells cannot stay on disk, and in runs from before they could."""
    backed = "yes" if tree["input"]["backed"] == "yes" else "no"
    return {**tree, "input": {**tree["input"], "backed": backed}}


def _changed(saved: dict, now: dict) -> list[str]:
    names = []
    for section, value in now.items():
        free = _MAY_CHANGE.get(section, set())
        if free is None:
            continue
        if not isinstance(value, dict):
            names += [section] if value != saved[section] else []
            continue
        names += [f"{section}.{key}" for key in value if key not in free and value[key] != saved[section][key]]
    return names
