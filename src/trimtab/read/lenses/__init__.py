"""Lenses: what a model would say at each depth, as log-probabilities of the next token."""
