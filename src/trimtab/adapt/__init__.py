"""Fine-tuning under constraints: improve these domains without losing those."""
