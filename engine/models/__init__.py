"""Model cards and the registry of known models."""
