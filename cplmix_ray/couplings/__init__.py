"""Couplings between arms, and the Aitchison geometry of the simplex."""
