"""Turning a behaviour up or down without training weights."""
