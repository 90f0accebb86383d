"""Checks of files and matrices before they are used."""
