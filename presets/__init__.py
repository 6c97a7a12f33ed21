"""Built-in presets, one YAML file each."""
