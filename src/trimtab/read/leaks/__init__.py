"""Audit of leaks: what a served model's outputs give away about its input (arXiv 2604.09885)."""
