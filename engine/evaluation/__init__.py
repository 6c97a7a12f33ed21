"""Metrics, test sets, synthetic damage, speed."""
