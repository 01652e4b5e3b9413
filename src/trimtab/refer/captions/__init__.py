"""Captions for a listener: DiscriTune, listeners and caption scores."""
