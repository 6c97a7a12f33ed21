"""Encoding: which encoder, its options, and segments that outlive an interruption."""
