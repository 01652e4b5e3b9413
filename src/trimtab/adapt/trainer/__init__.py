"""Dynamic mixtures inside `transformers.Trainer` and TRL."""
