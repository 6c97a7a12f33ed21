"""Command-line adapter: options in, exit codes out; the only layer that prints."""
