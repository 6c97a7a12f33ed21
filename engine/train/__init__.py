"""Training side-module; needs the `train` extra."""
