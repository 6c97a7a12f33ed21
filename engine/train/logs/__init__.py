"""Outputs of a training run for people: metrics, curves, sample sheets."""
