"""Coupled mixture VAE (Marghi et al. 2021)."""
