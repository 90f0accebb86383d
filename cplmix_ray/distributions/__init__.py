"""p(x | s, c): what the decoder's output means.

A likelihood says how many numbers it needs a gene (``heads``), whether it has a dispersion a gene, and the
log-probability of cells, summed over genes.
"""

from cplmix_ray.distributions.bernoulli import Bernoulli
from cplmix_ray.distributions.gaussian import Gaussian
from cplmix_ray.distributions.likelihood import Likelihood
from cplmix_ray.distributions.negative_binomial import NegativeBinomial, ZeroInflatedNegativeBinomial

LIKELIHOODS: dict[str, Likelihood] = {
    "bernoulli": Bernoulli(),
    "gaussian": Gaussian(),
    "nb": NegativeBinomial(),
    "zinb": ZeroInflatedNegativeBinomial(),
}

__all__ = ["LIKELIHOODS", "Likelihood"]
