"""The logged values of a run, kept in memory."""

from array import array
from collections.abc import Mapping

import pandas as pd


class History:
    """Scalars by name and step, with the names that they have in TensorBoard."""

    def __init__(self) -> None:
        self._points: dict[str, tuple[array, array]] = {}  # 16 bytes a value, as long runs log a lot

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            steps, numbers = self._points.setdefault(name, (array("q"), array("d")))
            steps.append(step)
            numbers.append(value)

    def go_back(self, step: int) -> None:
        """Forget what is later than ``step``, since training repeats those steps."""
        for steps, numbers in self._points.values():
            while steps and steps[-1] > step:
                steps.pop()
                numbers.pop()

    def table(self) -> pd.DataFrame:
        """One row a step and one column a name; NaN where a value was not logged at a step."""
        columns = {
            name: pd.Series(numbers, index=steps, dtype=float) for name, (steps, numbers) in self._points.items()
        }
        return pd.DataFrame(columns).rename_axis("step")
