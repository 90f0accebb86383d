"""Settings of the training loop."""

from typing import Literal

from pydantic import Field

from cplmix_ray.config.section import Section


class Training(Section):
    """Number of steps, learning rate, and intervals between outputs."""

    max_steps: int | None = Field(
        None,
        ge=1,
        description=(
            "Number of training steps. If --epochs is given too, training ends at whichever comes first; "
            "default: 2000 if neither is given."
        ),
    )
    epochs: int | None = Field(None, ge=1, description="Number of passes over the training cells.")
    batch_size: int = Field(256, ge=1, description="Number of cells in a minibatch.")
    lr: float = Field(3e-3, gt=0, description="Learning rate of Adam.")
    lr_schedule: Literal["constant", "cosine"] = Field(
        "constant", description="Learning rate schedule. constant: no decay. cosine: decay to zero along a cosine."
    )
    lr_warmup: int = Field(0, ge=0, description="Number of steps over which the learning rate increases from zero.")
    clip: float | None = Field(
        None,
        gt=0,
        description=(
            "Largest gradient norm of a part (an arm); larger gradients are scaled down to it. Default: no clipping."
        ),
    )
    log_every: int = Field(20, ge=1, description="Number of steps between TensorBoard values.")
    evaluate_every: int = Field(200, ge=1, description="Number of steps between evaluations on the validation cells.")
    checkpoint_every: int = Field(500, ge=1, description="Number of steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Number of newest checkpoints to keep.")

    def steps(self, n_train: int) -> int:
        """Number of training steps: max_steps or epochs, whichever is fewer; 2,000 if neither is given."""
        bounds = [] if self.max_steps is None else [self.max_steps]
        if self.epochs is not None:
            bounds.append(self.epochs * max(1, n_train // min(self.batch_size, n_train)))
        return min(bounds, default=2000)
