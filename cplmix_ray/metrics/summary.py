"""All scores of a set of cells, for the consensus and for each arm."""

import numpy as np

from cplmix_ray.metrics.label_scores import label_scores
from cplmix_ray.metrics.posterior_scores import agreement_of_arms, consensus_of_arms, posterior_scores


def score(
    log_q_ank: np.ndarray, consensus_nk: np.ndarray, labels_n: np.ndarray | None
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Scores of the consensus, and of each arm.

    Args:
        log_q_ank: the arms' log-posteriors, shape (A, n, K).
        consensus_nk: the consensus posterior, shape (n, K).
        labels_n: known types as strings, "" where unknown; None leaves the label scores out.
    """
    if consensus_nk.shape[0] == 0:
        return {}, []

    def all_of(q_nk: np.ndarray) -> dict[str, float]:
        by_label = {} if labels_n is None else label_scores(labels_n, q_nk.argmax(axis=1))
        return {**by_label, **posterior_scores(q_nk)}

    assigned_an = log_q_ank.argmax(axis=-1)
    common = {**all_of(consensus_nk), "consensus": consensus_of_arms(assigned_an)}
    agreement = agreement_of_arms(assigned_an)
    if agreement is not None:
        common["agreement"] = agreement
    return common, [all_of(np.exp(log_q_nk)) for log_q_nk in log_q_ank]
