"""LinEAS: activation steering learned end to end (arXiv 2503.10679)."""
