"""Published checkpoints: keys, sizes, loading."""
