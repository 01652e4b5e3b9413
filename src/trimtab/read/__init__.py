"""Interpretability: which concepts the units of a model detect."""
