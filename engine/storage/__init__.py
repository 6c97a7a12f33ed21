"""Sources and destinations: local folders and object stores; only this package uses fsspec."""
