"""The report of a run: HTML, CSV and JSON."""
