"""Conversion scripts, run in a separate process and some in a separate environment; never imported."""
