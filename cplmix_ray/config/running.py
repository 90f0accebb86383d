"""Settings of a run's course, and of where it is computed."""

from typing import Literal

from pydantic import Field, field_validator

from cplmix_ray.config.arms import Precision
from cplmix_ray.config.section import Section


class Training(Section):
    """Steps, schedules, and what is written when."""

    max_steps: int | None = Field(None, ge=1, description="Stop after this many steps.")
    epochs: int | None = Field(None, ge=1, description="Stop after this many passes over the training cells.")
    batch_size: int = Field(256, ge=1, description="Cells in a minibatch.")
    lr: float = Field(3e-3, gt=0, description="Adam's learning rate.")
    lr_schedule: Literal["constant", "cosine"] = Field("constant", description="How the learning rate ends.")
    lr_warmup: int = Field(0, ge=0, description="Steps over which the learning rate rises from zero.")
    lam_warmup: int = Field(0, ge=0, description="Steps over which lambda rises linearly from zero.")
    clip: float | None = Field(None, gt=0, description="Largest gradient norm of an arm.")
    log_every: int = Field(20, ge=1, description="Steps between lines in TensorBoard.")
    evaluate_every: int = Field(200, ge=1, description="Steps between scores on the validation cells.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="How many of the newest checkpoints stay.")

    def steps(self, n_train: int) -> int:
        """Steps to train: max_steps or epochs, whichever ends first; 2,000 where neither is given."""
        bounds = [] if self.max_steps is None else [self.max_steps]
        if self.epochs is not None:
            bounds.append(self.epochs * max(1, n_train // min(self.batch_size, n_train)))
        return min(bounds, default=2000)


class Placement(Section):
    """Where the arms run."""

    engine: Literal["auto", "local", "ray", "ray_train"] = Field(
        "auto",
        description="local: all arms in this process. ray: arms on Ray actors. ray_train: on workers of Ray Train, for "
        "long runs on clusters whose machines may be taken away. auto chooses local or ray and says why.",
    )
    replicas: int = Field(
        1,
        ge=1,
        description="Workers among which the cells of each arm's minibatch are shared out, evenly; every arm then "
        "takes as many devices. The numbers are those of one worker with the same setting.",
    )
    arms_per_worker: int | None = Field(None, ge=1, description="Arms packed on one Ray actor.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the arms compute.")
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads of a worker; default: 1 on a Ray actor, all cores in the local engine.",
    )
    precision: Precision = Field(
        "float32",
        description="bfloat16: matrix products in 16 bits on devices that have them, all else and all weights in "
        "32 bits.",
    )
    ray_address: str | None = Field(None, description="Ray cluster to join; default: RAY_ADDRESS, else a local one.")
    cluster_grows_to: int | None = Field(
        None,
        ge=1,
        description="Devices that an autoscaling cluster can come to have: GPUs, or CPU cores with --device cpu. "
        "Default: those that it has now.",
    )
    collective_timeout: float = Field(
        120.0, gt=0, description="Seconds before a silent arm is given up, or devices that are not there."
    )
    max_failures: int = Field(
        3, ge=0, description="How often training starts again by itself after a worker or a machine was lost."
    )
    train_storage: str | None = Field(
        None,
        description="Engine ray_train: folder that all machines share, or an address such as s3://bucket/folder, in "
        "which Ray Train keeps its checkpoints; default: a temporary folder, on one machine.",
    )

    @field_validator("train_storage")
    @classmethod
    def _without_secret(cls, address: str | None) -> str | None:
        """Settings are written to config.yaml, checkpoints and result.h5ad, which are passed on."""
        if address is not None and "://" in address and "@" in address.split("://", 1)[1].split("/", 1)[0]:
            raise ValueError(
                "the address holds credentials, which would be written into the run; leave out what stands before "
                "the @ and give them as the storage's own environment variables"
            )
        return address
