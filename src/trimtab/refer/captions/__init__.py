"""Captions for a listener: whether words let someone who hears them find the picture, and speakers tuned to do so."""
