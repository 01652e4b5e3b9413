"""Comparison of two models, domain by domain: what a change broke, and what it left as it was."""
