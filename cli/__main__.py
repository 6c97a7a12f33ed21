"""Let `python -m varfix.cli` do what the `varfix` script does."""

from varfix.cli.main import run

run()
