"""Where items lie and results go: local folders and object stores; fsspec is used only here."""
