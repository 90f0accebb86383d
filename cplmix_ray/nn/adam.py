"""Adam (Kingma and Ba 2015), fused: torch's own kernel without torch's own class around it.

``torch.optim`` loads its compiler the first time that an optimiser is made, which takes seconds in every process that
holds arms and serves nothing here.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


class Adam:
    """The part of ``torch.optim.Adam(..., fused=True)`` that training needs, with the same numbers to the last bit.

    Args:
        lr: learning rate.

    Attributes:
        state: parameter -> its number of steps and its two moments, once it has had a gradient.
        param_groups: one, which holds the learning rate.
    """

    betas, eps = (0.9, 0.999), 1e-8

    def __init__(self, parameters: Iterable[Tensor], lr: float):
        self.parameters = list(parameters)
        self.param_groups = [{"lr": lr}]
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        moving = [parameter for parameter in self.parameters if parameter.grad is not None]
        if not moving:
            return
        states = [self._state_of(parameter) for parameter in moving]
        steps, averages, squares = ([each[name] for each in states] for name in ("step", "exp_avg", "exp_avg_sq"))
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            moving,
            [parameter.grad for parameter in moving if parameter.grad is not None],
            averages,
            squares,
            [],
            steps,
            lr=self.param_groups[0]["lr"],
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        if parameter not in self.state:
            self.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return self.state[parameter]
