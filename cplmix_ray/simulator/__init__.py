"""Cells with a known type and a known continuous state, as realistic as it takes to judge a method by them.

Nothing is imported here: whoever reads the settings, as ``--help`` does, should not wait for what draws the cells.
"""
