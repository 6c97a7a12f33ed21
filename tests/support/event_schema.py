"""The JSON Schema of the event lines, made from the types that write them.

The file `engine/events.schema.json` is what programs check against; a test keeps it
equal to `event_schema()`. After a change to the events, write it anew with `write_schema`.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Final

import msgspec

from varfix.engine.events import SCHEMA, Event

SCHEMA_FILE: Final = Path(__file__).parents[2] / "engine" / "events.schema.json"


def event_schema() -> dict[str, Any]:
    """Return the schema (JSON Schema 2020-12) of one line.

    Every field is written, so every field is required, but those that begin as `UNSET`; later
    versions may write more.
    """
    kinds = Event.__subclasses__()
    definitions = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")[1]
    optional = {kind.__name__: _optional_fields(kind) for kind in kinds}
    for name, definition in definitions.items():
        left_out = optional.get(name, set())
        definition["required"] = [key for key in definition["properties"] if key not in left_out]
        # Versions of msgspec differ in whether they remove the indentation of docstrings.
        definition["description"] = inspect.cleandoc(definition["description"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A line of varfix events, schema {SCHEMA}",
        "type": "object",
        "properties": {
            "v": {"const": SCHEMA},
            "t": {"type": "string", "format": "date-time", "description": "When, in UTC."},
            "run": {"type": "string", "description": "The same in all lines of a run."},
        },
        "required": ["v", "t", "run", "event"],
        "oneOf": [{"$ref": f"#/$defs/{kind.__name__}"} for kind in kinds],
        "$defs": dict(sorted(definitions.items())),
    }


def _optional_fields(kind: type[Event]) -> set[str]:
    """Return the names of the fields that are absent unless they are set."""
    fields = msgspec.structs.fields(kind)
    return {field.encode_name for field in fields if field.default is msgspec.UNSET}


def schema_text() -> str:
    """Return the schema as it is committed."""
    return json.dumps(event_schema(), indent=2) + "\n"


def write_schema() -> None:
    """Write the schema to its file in the source tree."""
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
