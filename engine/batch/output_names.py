"""Names of results, decided for all images before any work, so that none replaces another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Final

from varfix.engine.batch.case_collisions import NameKey, detect_comparison, exact, may_collide
from varfix.engine.errors import CollisionError, PlanError
from varfix.engine.system.display_names import single_line
from varfix.engine.system.state_folder import STATE_FOLDER

_FIELDS: Final = ("dir", "stem", "ext", "preset", "model")


@dataclass(frozen=True)
class Naming:
    """The names of results.

    Attributes:
        template: Template with fields `{dir}` (with a final `/`), `{stem}`, `{ext}` (with its dot),
            `{preset}`, `{model}`.
        preset: Value of `{preset}`.
        model: Value of `{model}`.
        extension: Returns the extension of a source's result.
    """

    template: str
    preset: str
    model: str
    extension: Callable[[str], str]

    def name(self, src: str, stem: str) -> str:
        """Return the name of a source's result.

        Args:
            src: Name of the source.
            stem: Value of `{stem}`.

        Raises:
            PlanError: The template has an unknown field, or the name is outside the destination.
        """
        folder = PurePosixPath(src).parent.as_posix()
        fields = {
            "dir": "" if folder == "." else f"{folder}/",
            "stem": stem,
            "ext": self.extension(src),
            "preset": self.preset,
            "model": self.model,
        }
        name = "".join(text + (fields[key] if key else "") for text, key in self._parts)
        path = PurePosixPath(name)
        inside = path.name and not path.is_absolute() and ".." not in path.parts
        if not inside or "\0" in name or path.parts[0].casefold() == STATE_FOLDER:
            raise PlanError(
                f'--name "{self.template}": "{single_line(name)}" is not a file in the destination'
            )
        return path.as_posix()

    @functools.cached_property
    def _parts(self) -> list[tuple[str, str | None]]:
        """Texts of the template, each with the field that follows it or None."""
        try:
            parts = list(Formatter().parse(self.template))
        except ValueError as error:
            raise self._unknown(str(error)) from error
        for _, key, form, conversion in parts:
            if key is not None and (key not in _FIELDS or form or conversion):
                raise self._unknown(f"unknown field {{{key}}}")
        return [(text, key) for text, key, _, _ in parts]

    def _unknown(self, reason: str) -> PlanError:
        hint = f"fields are {' '.join(f'{{{name}}}' for name in _FIELDS)}"
        return PlanError(f'--name "{self.template}": {reason}', hint=hint)


@dataclass
class _UsedNames:
    """Names of files and of their parent folders that results have, by their keys."""

    key_of: NameKey
    owners: Mapping[str, str]
    files: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)

    def holder(self, dst: str, src: str) -> str | None:
        """Return the source whose result prevents that `src` gets the name `dst`; None if free."""
        key, above = self._keys(dst)
        for held in (self.files.get(key), self.owners.get(key), self.folders.get(key)):
            if held not in (None, src):
                return held
        return next((self.files[folder] for folder in above if folder in self.files), None)

    def add(self, dst: str, src: str) -> None:
        key, above = self._keys(dst)
        self.files[key] = src
        self.folders.update(dict.fromkeys(above, src))

    def _keys(self, dst: str) -> tuple[str, list[str]]:
        key = self.key_of(dst)
        parts = key.split("/")
        return key, ["/".join(parts[:end]) for end in range(1, len(parts))]


def name_outputs(
    sources: Iterable[str],
    naming: Naming,
    owners: Mapping[str, str] | None = None,
    key_of: NameKey = exact,
) -> dict[str, str]:
    """Return the names of the results by the names of the sources.

    If two results would have the same name, the second keeps the whole name of its source: `a.png`
    and `a.jpg` become `a.webp` and `a.jpg.webp`.

    Args:
        sources: Names below the source folder.
        naming: Template of the names.
        owners: Sources by the names of results that would replace them; only a source's own result
            may.
        key_of: How the destination compares names.

    Raises:
        PlanError: The template has an unknown field, or a name is outside the destination.
        CollisionError: Two results would still have the same name, or the name of a folder.
    """
    owned = {key_of(name): src for name, src in (owners or {}).items()}
    used = _UsedNames(key_of, owned)
    names = {}
    for src in sources:
        dst = naming.name(src, PurePosixPath(src).stem)
        if used.holder(dst, src) is not None:
            dst = naming.name(src, PurePosixPath(src).name)
        holder = used.holder(dst, src)
        if holder is not None:
            raise CollisionError(
                f"{single_line(holder)} and {single_line(src)} would both become"
                f" {single_line(dst)}",
                hint="rename one of them, or name the results with --name",
            )
        used.add(dst, src)
        names[src] = dst
    return names


def name_apart(
    sources: Iterable[str], naming: Naming, owners: Mapping[str, str], destination: Path
) -> dict[str, str]:
    """Return names as `name_outputs` that also differ in the file system of the destination."""
    sources = list(sources)
    names = name_outputs(sources, naming, owners)
    if not may_collide({*names.values(), *owners}):
        return names
    key_of = detect_comparison(destination)
    return names if key_of is exact else name_outputs(sources, naming, owners, key_of)
