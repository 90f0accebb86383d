"""Scores as words."""

_NAMES = {
    "acc": "ACC",
    "ari": "ARI",
    "nmi": "NMI",
    "consensus": "consensus",
    "amp": "AMP",
    "kl_qc_pc": "KL(q(c)||p(c))",
    "populated": "populated",
    "state_rho": "state rho",
    "state_ridge": "state ridge",
    "state_rho_in_categories": "state rho in categories",
    "state_ridge_in_categories": "state ridge in categories",
    "disentanglement": "DS",
    "reconstruction": "L_rec",
}


def score_line(title: str, scores: dict[str, float]) -> str:
    """One line of the scores that are there."""
    shown = [f"{label} {scores[name]:.4g}" for name, label in _NAMES.items() if name in scores]
    return f"{title}: {', '.join(shown)}"
