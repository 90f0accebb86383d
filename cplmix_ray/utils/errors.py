"""Exceptions that commands report to the user: one sentence with the cause and the remedy."""


class InputError(Exception):
    """Invalid input; commands end with exit status 2."""


class TrainingError(Exception):
    """Training failed; commands end with exit status 1."""


class DiskError(TrainingError):
    """Results cannot be written: the disk is full or fails."""


class ShortfallError(InputError):
    """There are fewer devices than a run needs; a cluster may have more of them later."""


class WorkerLostError(TrainingError):
    """A worker, its machine, or the link between workers is lost; the run can continue on other workers.

    Args:
        units: what it held, as "arm 0" or "arm 0+1, 2".
        reason: what was seen of it.
        reached: the most steps that a worker was heard to have done; None where none had begun or could tell.
    """

    def __init__(self, units: str, reason: str, reached: int | None = None):
        self.units, self.reason, self.reached = units, reason, reached
        super().__init__(f"The worker of {units} is lost ({reason})")

    def __reduce__(self):
        return type(self), (self.units, self.reason, self.reached)


class NonFiniteError(TrainingError):
    """A number of a model is NaN or infinite.

    Args:
        term: name of the term of the objective, as in the logs, or of what else it is.
        unit: index of the unit (the arm) it belongs to, or None where the value came from another worker.
        step: optimisation step, counted from 0.
        kind: what a unit is called.
    """

    def __init__(self, term: str, unit: int | None, step: int, kind: str = "arm"):
        self.term, self.unit, self.step, self.kind = term, unit, step, kind
        where = f"an {kind} on another worker" if unit is None else f"{kind} {unit}"
        super().__init__(
            f"The {term} of {where} is not finite at step {step}; lower --lr or --lam, set --clip 10, "
            f"or look for extreme values in the data."
        )

    def __reduce__(self):  # the arguments differ from the message, so pickling needs to be told
        return type(self), (self.term, self.unit, self.step, self.kind)
