"""Leak audit: what a model's hidden states, logits and answers tell about its input (Fedzechkina et al. 2026)."""
