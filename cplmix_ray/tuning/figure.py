"""The score against each searched setting."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cplmix_ray.checkpoints.run_folder import write_whole
from cplmix_ray.config.search import Dimension
from cplmix_ray.tuning.trial_state import TrialState

_SYMBOLS = {"model.n_arms": "arms A", "objective.lam": "coupling $\\lambda$", "model.n_categories": "categories |c|"}


def draw_scores(path: Path, space: dict[str, Dimension], trials: Sequence[TrialState], metric: str) -> None:
    """One panel a setting: a point for each trial that ran to its end, its bar the standard deviation over seeds.

    Settings that take a few values also get the mean over the trials of each value.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    finished = [t for t in trials if t.status == "done" and t.report.get("score") is not None]
    figure = Figure(figsize=(3.4 * len(space), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(space), sharey=True, squeeze=False)[0]
    for panel, (name, dimension) in zip(panels, space.items(), strict=True):
        values = [trial.point[name] for trial in finished]
        at = _positions(values, dimension)
        scores = [trial.report["score"] for trial in finished]
        spread = [trial.report.get("score_sd") or 0.0 for trial in finished]
        panel.errorbar(at, scores, yerr=spread, fmt="o", alpha=0.6, markersize=5, capsize=2)
        if dimension.values is not None:
            by_place = defaultdict(list)
            for place, score in zip(at, scores, strict=True):
                by_place[place].append(score)
            places = sorted(by_place)
            means = [sum(by_place[place]) / len(by_place[place]) for place in places]
            panel.plot(places, means, "_-", color="black", markersize=18, linewidth=1)
            panel.set_xticks(range(len(dimension.values)), [str(value) for value in dimension.values])
            panel.set_xlim(-0.5, len(dimension.values) - 0.5)
        elif dimension.loguniform is not None:
            panel.set_xscale("log")
        panel.set_xlabel(_SYMBOLS.get(name, name))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(metric.upper() if metric in ("acc", "ari", "nmi") else metric)
    write_whole(path, lambda partial: figure.savefig(partial, dpi=150, format="png"))


def _positions(values: list[Any], dimension: Dimension) -> list[float]:
    """Listed values stand side by side, numbers on their axis."""
    return [float(dimension.values.index(v)) if dimension.values is not None else float(v) for v in values]
