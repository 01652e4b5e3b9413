"""Mutual intelligibility: who understands whose captions (Dessi et al. 2022, arXiv 2210.11512)."""
