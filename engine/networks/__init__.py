"""PyTorch networks; need the `train` extra."""
