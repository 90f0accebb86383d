"""Likelihoods p(x | s, c) of a cell given the decoder's output."""
