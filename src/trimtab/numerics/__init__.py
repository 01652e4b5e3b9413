"""Pure mathematics on arrays and tensors; knows nothing of models."""
