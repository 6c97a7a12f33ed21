"""Settings: their types, the layers they come from, and the presets."""
