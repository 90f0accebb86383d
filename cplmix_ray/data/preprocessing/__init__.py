"""Normalisation and selection of genes."""
