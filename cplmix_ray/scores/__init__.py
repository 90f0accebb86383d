"""How good a run is, with labels and without."""

from cplmix_ray.scores.disentanglement import disentanglement
from cplmix_ray.scores.labels import hungarian_accuracy, label_scores
from cplmix_ray.scores.posterior import posterior_scores
from cplmix_ray.scores.state import state_scores
from cplmix_ray.scores.summary import score

__all__ = [
    "disentanglement",
    "hungarian_accuracy",
    "label_scores",
    "posterior_scores",
    "score",
    "state_scores",
]
