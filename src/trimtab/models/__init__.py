"""Loaded models: checkpoints, sites, activations and likelihoods; the only folder that knows architectures."""
