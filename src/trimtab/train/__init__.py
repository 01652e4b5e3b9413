"""The training loop, its snapshots and its checkpoints."""
