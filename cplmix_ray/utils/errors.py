"""Exceptions and warnings that are reported to the user: one sentence with the cause and the remedy."""

_LONGEST = 2000
"""Largest number of characters of an error message; longer ones are shortened in the middle."""


class InputError(Exception):
    """Invalid input; commands end with exit status 2."""


class ArgumentTypeError(InputError, TypeError):
    """An argument of the Python API has a wrong type, or there is no such argument."""


class CplMixWarning(UserWarning):
    """What a user of the Python API should know of the data or of a training; commands print it."""


class TrainingError(Exception):
    """Training failed; commands end with exit status 1."""


class DiskError(TrainingError):
    """Results cannot be written: the disk is full or fails."""


class RayStartError(TrainingError):
    """Ray cannot be started on this machine; all units of a run can be trained in one process instead.

    Args:
        reason: the cause, without a period.
    """

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(f"Ray cannot be started on this machine ({reason}); --engine local does not need it.")

    def __reduce__(self):
        return type(self), (self.reason,)


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


def in_one_line(sentence: str) -> str:
    """The sentence in one line of limited length, without control characters, which names from files may contain."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(sentence.split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
