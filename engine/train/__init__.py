"""Training of the networks; needs the `train` extra."""
