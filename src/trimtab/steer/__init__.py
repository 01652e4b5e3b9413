"""Activation steering: turning a behaviour up or down without training weights."""
