"""What a model's units and outputs know."""
