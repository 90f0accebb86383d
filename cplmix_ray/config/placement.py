"""Settings of the engine, workers, devices and restarts."""

from typing import Literal

from pydantic import Field, field_validator

from cplmix_ray.config.section import Section

Precision = Literal["float32", "bfloat16"]


class Placement(Section):
    """Engine, workers and devices."""

    engine: Literal["auto", "local", "ray", "ray_train"] = Field(
        "auto",
        description=(
            "local: all arms in this process. ray: arms on Ray actors. ray_train: arms on workers of Ray "
            "Train, for long runs on clusters whose machines can be taken away. auto: local or ray; the "
            "choice and its reason are printed."
        ),
    )
    replicas: int = Field(
        1,
        ge=1,
        description=(
            "Number of workers among which the cells of each arm's minibatch are split evenly; every arm then "
            "uses this many devices. The results are those of one worker with the same setting."
        ),
    )
    arms_per_worker: int | None = Field(
        None, ge=1, description="Number of arms per Ray actor; default: as few as the devices allow."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device to compute on.")
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Number of CPU threads per worker; default: 1 on a Ray actor, all cores with the local engine.",
    )
    precision: Precision = Field(
        "float32",
        description=(
            "bfloat16: compute matrix products in 16 bits, on devices that support it; everything else, "
            "including all weights, stays in 32 bits."
        ),
    )
    ray_address: str | None = Field(
        None,
        description=(
            "Ray cluster to join ('auto' for a running one); default: the environment variable RAY_ADDRESS, "
            "or a new local instance."
        ),
    )
    cluster_grows_to: int | None = Field(
        None,
        ge=1,
        description=(
            "Largest number of devices that an autoscaling cluster can provide: GPUs, or CPU cores with "
            "--device cpu. Default: the number it has now."
        ),
    )
    collective_timeout: float = Field(
        120.0,
        gt=0,
        description=(
            "Seconds after which an arm that does not respond is treated as lost, and for which missing "
            "devices are waited for."
        ),
    )
    max_failures: int = Field(
        3, ge=0, description="Number of automatic restarts after the loss of a worker or a machine."
    )
    train_storage: str | None = Field(
        None,
        description=(
            "Engine ray_train: folder shared by all machines, or an address such as s3://bucket/folder, for "
            "the checkpoints of Ray Train. Default: a temporary folder, for a single machine."
        ),
    )

    @field_validator("train_storage")
    @classmethod
    def _without_credentials(cls, address: str | None) -> str | None:
        """Refuse credentials: settings are written to config.yaml, checkpoints and result.h5ad, which are shared."""
        if address is not None and "://" in address and "@" in address.split("://", 1)[1].split("/", 1)[0]:
            raise ValueError(
                "the address contains credentials, which would be written into the run; remove the part before the @ "
                "and set the environment variables of the storage instead"
            )
        return address
