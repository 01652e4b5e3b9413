"""Scaling laws for forgetting: what fine-tuning costs a model, and which share of pretraining data keeps that small."""
