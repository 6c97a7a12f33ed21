"""Synthetic degradations as torch operations on batches."""
