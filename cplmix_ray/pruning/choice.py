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
    if rule == "consensus":
        for at, least in enumerate(smallest):
            if least >= minimum:
                return at, f"{n_categories[at]} categories are the most with a consensus of at least {minimum:g} each"
    at = knee(n_categories, smallest)
    why = "" if rule == "knee" else f", as in no stage all categories reach a consensus of {minimum:g}"
    return at, f"{n_categories[at]} categories are at the knee of the curve{why}"


def knee(x: Sequence[float], y: Sequence[float]) -> int:
    """Index of the point that is farthest above the line between the ends of a curve, both axes scaled to 0..1."""
    along, height = (np.asarray(each, float) for each in (x, y))
    along = (along - along.min()) / max(np.ptp(along), 1e-12)
    height = (height - height.min()) / max(np.ptp(height), 1e-12)
    slope = (height[-1] - height[0]) / ((along[-1] - along[0]) or 1.0)
    return int(np.argmax(height - (height[0] + slope * (along - along[0]))))
