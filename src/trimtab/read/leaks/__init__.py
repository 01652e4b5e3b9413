"""Leak audit: what hidden states, lens trajectories and served log-probabilities give away about an input."""
