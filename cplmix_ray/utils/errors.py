"""The kinds of failure that a user meets, each one sentence that names the thing and the remedy."""


class InputError(Exception):
    """What the user gave cannot be used; commands end with exit status 2."""


class TrainingError(Exception):
    """Training itself went wrong; commands end with exit status 1."""


class DiskError(TrainingError):
    """What was found cannot be kept: the disk is full or fails."""


class ShortfallError(InputError):
    """There are fewer devices than a run needs; a cluster may have more of them later."""


class WorkerLostError(TrainingError):
    """A worker, its machine, or the link between workers is gone; the same run can go on without that failure.

    Args:
        arms: the arms that went with it, as "0" or "0+1, 2".
        reason: what was seen of it.
        reached: the most steps that a worker was heard to have done; None where none had begun or could tell.
    """

    def __init__(self, arms: str, reason: str, reached: int | None = None):
        self.arms, self.reason, self.reached = arms, reason, reached
        super().__init__(f"The worker of arm {arms} is lost ({reason})")

    def __reduce__(self):
        return type(self), (self.arms, self.reason, self.reached)


class NonFiniteError(TrainingError):
    """A number of an arm is NaN or infinite.

    Args:
        term: name of the term of the objective, as in the logs, or of what else it is.
        arm: index of the arm, or None where the value came from another worker's arm.
        step: optimisation step, counted from 0.
    """

    def __init__(self, term: str, arm: int | None, step: int):
        self.term, self.arm, self.step = term, arm, step
        where = "an arm on another worker" if arm is None else f"arm {arm}"
        super().__init__(
            f"The {term} of {where} is not finite at step {step}; lower --lr or --lam, set --clip 10, "
            f"or look for extreme values in the data."
        )

    def __reduce__(self):  # the arguments differ from the message, so pickling needs to be told
        return type(self), (self.term, self.arm, self.step)
