"""Configs, run folders and sweeps, independent of the systems."""
