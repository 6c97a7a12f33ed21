"""Muxing: which containers hold which streams, how results are written and compared."""
