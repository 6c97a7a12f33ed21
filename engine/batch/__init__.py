"""A run: plan, items, pipeline, processing, publishing, events."""
