"""HyperTransport: a hypernetwork that maps the embedding of a concept to a steering (arXiv 2605.08254)."""
