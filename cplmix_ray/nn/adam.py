"""Fused Adam (Kingma and Ba 2015): torch's kernel without ``torch.optim``.

The first optimiser of ``torch.optim`` in a process imports torch's compiler, which takes seconds in every worker and is
not used here.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


class Adam:
    """The part of ``torch.optim.Adam(..., fused=True)`` that training needs, with bitwise equal results.

    Args:
        lr: learning rate.

    Attributes:
        state: number of steps and two moments of each parameter that has had a gradient.
        param_groups: a single group, with the learning rate.
    """

    betas, eps = (0.9, 0.999), 1e-8

    def __init__(self, parameters: Iterable[Tensor], lr: float):
        self.parameters = list(parameters)
        self.param_groups = [{"lr": lr}]
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients."""
        for parameter in self.parameters:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        updated = [parameter for parameter in self.parameters if parameter.grad is not None]
        if not updated:
            return
        states = [self._state_of(parameter) for parameter in updated]
        steps, averages, squares = ([each[name] for each in states] for name in ("step", "exp_avg", "exp_avg_sq"))
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            updated,
            [parameter.grad for parameter in updated if parameter.grad is not None],
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
