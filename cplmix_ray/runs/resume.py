"""Checks of a run that is resumed, and the checkpoint from which it continues."""

from collections.abc import Callable

from cplmix_ray.checkpoints.checkpoint import Checkpoint, latest_checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config import RunConfig, load_config
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.evaluation.trained_model import settings_of
from cplmix_ray.models.registry import family_of
from cplmix_ray.models.resolve import resolve_settings
from cplmix_ray.utils.errors import InputError

_MAY_CHANGE = {
    "placement": None,
    "input": {"data", "metadata", "labels_key", "state_key"},
    "training": {"max_steps", "epochs", "log_every", "evaluate_every", "checkpoint_every", "keep_checkpoints"},
}
"""Settings of every family that may differ in a resumed run; None: all of the section."""


def checkpoint_to_resume(
    folder: RunFolder, config: RunConfig, data: Dataset, say: Callable[[str], None], restart_damaged: bool = False
) -> Checkpoint | None:
    """The newest intact checkpoint of the folder, or None if there is no checkpoint.

    Args:
        restart_damaged: whether to start at step 0 if all checkpoints are damaged. The default is an error, since it
            may repeat many hours of training.

    Raises:
        InputError: all checkpoints are damaged, or the settings or the data are not those of the run.
    """
    checkpoint, damaged = latest_checkpoint(folder.checkpoints)
    if checkpoint is None and damaged and not restart_damaged:
        raise InputError(
            f"All checkpoints in {folder.checkpoints} are damaged ({'; '.join(damaged)}); restore one from a copy, or "
            f"remove that folder to start at step 0."
        )
    for line in damaged:
        say(f"{line} and is skipped.")
    if checkpoint is None:
        say(f"{folder.path} contains no intact checkpoint; training starts at step 0.")
        return None
    saved = settings_of(checkpoint)
    if saved.family != config.family:
        raise InputError(
            f"The run in {folder.path} has the model family {saved.family}, not {config.family}; choose another --out."
        )
    _require_same_cells(folder, checkpoint, data)
    changed = changed_settings(resolve_settings(saved, data.training), resolve_settings(config, data.training))
    if changed:
        raise InputError(
            f"The run in {folder.path} has other settings for {', '.join(changed)}; resume it with the same settings."
        )
    facts = family_of(config).checkpoint_facts(data.training)
    differ = [name for name, value in facts.items() if checkpoint.manifest.get(name) != value]
    if differ:
        raise InputError(
            f"The run in {folder.path} was started with another {', '.join(differ)}; give that one with "
            f"--{', --'.join(differ)}."
        )
    say(f"Resuming from {checkpoint.path}.")
    return checkpoint


def with_kept_inputs(folder: RunFolder, config: RunConfig) -> RunConfig:
    """The settings of a run to resume: with its own copies of missing files, and with ``--backed auto`` as resolved at
    the start of the run, since the order of its cells depends on it."""
    config = family_of(config).with_kept_inputs(folder.path, config)
    if config.input.backed != "auto" or not folder.config.exists():
        return config
    return config.with_settings(input={"backed": load_config(folder.config).input.backed})


def _require_same_cells(folder: RunFolder, checkpoint: Checkpoint, data: Dataset) -> None:
    saved = {name: tuple(tree["var_names"]) for name, tree in checkpoint.manifest["preparations"].items()}
    given = {name: preparation.var_names for name, preparation in data.training.preparations.items()}
    if saved != given or checkpoint.manifest["n_cells"] != data.n_cells:
        raise InputError(f"The run in {folder.path} was trained on other cells or genes than {data.name}.")
    for name, preparation in data.training.preparations.items():
        saved_too = Preparation.from_dict(checkpoint.manifest["preparations"][name]).covariates
        for covariate in preparation.covariates:
            # A covariate that only one of them has is told from the settings.
            if any(covariate.name == other.name and covariate != other for other in saved_too):
                raise InputError(
                    f"The run in {folder.path} was trained with other values in column '{covariate.name}' than "
                    f"{data.name} has; restore that column."
                )


def changed_settings(saved: RunConfig, config: RunConfig) -> list[str]:
    before, now = (in_memory_unless_backed(each.model_dump()) for each in (saved, config))
    names = []
    for section, value in now.items():
        free = _MAY_CHANGE.get(section, set())
        if free is None:
            continue
        if not isinstance(value, dict):
            names += [section] if value != before[section] else []
            continue
        names += [
            f"{section}.{key}"
            for key in value
            if key not in free
            and f"{section}.{key}" not in config.resumable_settings
            and value[key] != before[section][key]
        ]
    return names


def in_memory_unless_backed(tree: dict) -> dict:
    """The settings with ``backed`` set to no unless it is yes. 'auto' is recorded for data that cannot stay on disk,
    and by older versions, which kept all cells in memory."""
    backed = "yes" if tree["input"]["backed"] == "yes" else "no"
    return {**tree, "input": {**tree["input"], "backed": backed}}
