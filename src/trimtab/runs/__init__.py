"""Configs, run folders and sweeps; knows no science."""
