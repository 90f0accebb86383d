"""Scores of a run or of predictions, in one line."""

from cplmix_ray.metrics.registry import METRICS, names_in


def score_line(title: str, scores: dict[str, float]) -> str:
    """Format the available scores as one line; empty if there are none."""
    shown = [f"{METRICS[name].label} {scores[name]:.4g}" for name in names_in("summary") if name in scores]
    return f"{title}: {', '.join(shown)}" if shown else ""
