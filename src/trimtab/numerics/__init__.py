"""Numerical methods on arrays and tensors, independent of models."""
