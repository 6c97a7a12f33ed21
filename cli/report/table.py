"""Reports for programs: one JSON object, or a table with a line for each image."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Sequence
from typing import IO, Final

import msgspec

from varfix.cli.report.report import Previews, Row, Story, pour

_COLUMNS: Final = Row.__struct_fields__


class JsonWriter:
    """`{"schema": 1, "began": …, "heading": …, …, "pictures": [one object a line]}`."""

    SCHEMA: Final = 1

    def __init__(self, rows: IO[bytes]) -> None:
        self._rows = rows
        self._count = 0

    def wants_previews(self, story: Story) -> bool:
        """Programs do not look."""
        return False

    def add(self, row: Row, previews: Previews | None) -> None:
        """Put an image aside."""
        self._rows.write(b",\n" if self._count else b"\n")
        self._rows.write(msgspec.json.encode(row))
        self._count += 1

    def compose(self, story: Story, out: IO[bytes]) -> None:
        """Write the object."""
        head = msgspec.json.encode({"schema": self.SCHEMA, **msgspec.to_builtins(story)})
        out.write(head.removesuffix(b"}") + b',"pictures":[')
        pour(self._rows, out)
        out.write(b"\n]}\n")


class CsvWriter:
    """A header, then one line for each image, as RFC 4180 has it and spreadsheets read it."""

    def __init__(self, rows: IO[bytes]) -> None:
        self._rows = rows
        self._table = csv.writer(codecs.getwriter("utf-8")(rows))
        self._add(_COLUMNS)

    def wants_previews(self, story: Story) -> bool:
        """Programs do not look."""
        return False

    def add(self, row: Row, previews: Previews | None) -> None:
        """Put an image aside."""
        values = [getattr(row, name) for name in _COLUMNS]
        self._add(["" if value is None else str(value) for value in values])

    def compose(self, story: Story, out: IO[bytes]) -> None:
        """Write the table; the run as a whole is not in it."""
        pour(self._rows, out)

    def _add(self, values: Sequence[str]) -> None:
        self._table.writerow([_harmless(value) for value in values])


def _harmless(value: str) -> str:
    """Keep a spreadsheet from taking a file's name for a formula."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
