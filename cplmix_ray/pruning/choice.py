"""The choice among the numbers of categories of a pruning."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Rule = Literal["consensus", "knee"]


def choose(n_categories: Sequence[int], smallest: Sequence[float], rule: Rule, minimum: float) -> tuple[int, str]:
    """Index of the chosen stage, and a sentence that says why.

    Args:
        n_categories: of each stage, descending.
        smallest: consensus of the category on which the arms agree least, of each stage.
        rule: consensus: the most categories of which all reach ``minimum``, or those of the knee if there are none.
            knee: those at which the curve is farthest above the line between its ends.
    """
    reached = [at for at, least in enumerate(smallest) if least >= minimum]
    if rule == "consensus" and reached:
        why = f"the largest number with a consensus of at least {minimum:g} on every category"
        return reached[0], f"{n_categories[reached[0]]} categories, {why}.{_hint(reached[0], n_categories)}"
    at = knee(n_categories, smallest)
    why = "" if rule == "knee" else f", as no number has a consensus of at least {minimum:g} on every category"
    return at, f"{n_categories[at]} categories, the knee of the curve{why}."


def _hint(at: int, n_categories: Sequence[int]) -> str:
    """What to do about a choice at an end of the curve."""
    if len(n_categories) > 1 and at == 0:
        return " It is that of the run, so that there may be more: prune a run with more categories."
    if n_categories[at] == 1:
        return " If you expect several types, train the run for more steps, or lower --min-consensus."
    return ""


def knee(x: Sequence[float], y: Sequence[float]) -> int:
    """Index of the point that is farthest above the line between the ends of a curve, both axes scaled to 0..1."""
    along, height = (np.asarray(each, float) for each in (x, y))
    along = (along - along.min()) / max(np.ptp(along), 1e-12)
    height = (height - height.min()) / max(np.ptp(height), 1e-12)
    slope = (height[-1] - height[0]) / ((along[-1] - along[0]) or 1.0)
    return int(np.argmax(height - (height[0] + slope * (along - along[0]))))
