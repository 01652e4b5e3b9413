"""Leak audit: what a model's hidden states, logits and answers tell about its input (Fedzechkina et al. 2026)."""

from trimtab.read.leaks.estimate import estimate_leak

__all__ = ["estimate_leak"]
