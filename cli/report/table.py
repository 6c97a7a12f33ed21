"""Reports for programs: a JSON object, or a CSV table."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Sequence
from typing import IO, Final

import msgspec

from varfix.cli.report.rows import Previews, ReportRow, RunReport, copy_spool
from varfix.engine.models.card import TASKS

_FOUND: Final = {f"found_{kind}": kind for kind in TASKS if kind != "auto"}
"""Columns for the probability of each kind of damage."""

_COLUMNS: Final = tuple(name for name in ReportRow.__struct_fields__ if name != "found")


class JsonWriter:
    """`{"schema": 1, "began": …, "heading": …, …, "pictures": […]}`."""

    SCHEMA: Final = 1

    def __init__(self, rows: IO[bytes]) -> None:
        self._rows = rows
        self._count = 0

    def wants_previews(self, report: RunReport) -> bool:
        """Return False: there are no previews."""
        return False

    def add(self, row: ReportRow, previews: Previews | None) -> None:
        """Append an image to the temporary file."""
        self._rows.write(b",\n" if self._count else b"\n")
        self._rows.write(msgspec.json.encode(row))
        self._count += 1

    def compose(self, report: RunReport, out: IO[bytes]) -> None:
        """Write the object."""
        head = msgspec.json.encode({"schema": self.SCHEMA, **msgspec.to_builtins(report)})
        out.write(head.removesuffix(b"}") + b',"pictures":[')
        copy_spool(self._rows, out)
        out.write(b"\n]}\n")


class CsvWriter:
    """A CSV table as of RFC 4180: a header, and one line for each image."""

    def __init__(self, rows: IO[bytes]) -> None:
        self._rows = rows
        self._table = csv.writer(codecs.getwriter("utf-8")(rows))
        self._add([*_COLUMNS, *_FOUND])

    def wants_previews(self, report: RunReport) -> bool:
        """Return False: there are no previews."""
        return False

    def add(self, row: ReportRow, previews: Previews | None) -> None:
        """Append an image to the temporary file."""
        found = row.found or {}
        values = [getattr(row, name) for name in _COLUMNS]
        self._add([_text(value) for value in (*values, *map(found.get, _FOUND.values()))])

    def compose(self, report: RunReport, out: IO[bytes]) -> None:
        """Write the table, without data of the whole run."""
        copy_spool(self._rows, out)

    def _add(self, values: Sequence[str]) -> None:
        self._table.writerow([_harmless(value) for value in values])


def _text(value: object) -> str:
    if value is None:
        return ""
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _harmless(value: str) -> str:
    """Escape texts that a spreadsheet would evaluate as a formula."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
