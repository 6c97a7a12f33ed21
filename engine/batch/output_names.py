"""Names of results, decided for all images before any work, so that none replaces another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Final

from varfix.engine.batch.case_collisions import Spelling, exact, have_twins, spelling_in
from varfix.engine.errors import CollisionError, PlanError
from varfix.engine.system.display_names import single_line
from varfix.engine.system.state_folder import STATE_FOLDER

_FIELDS: Final = ("dir", "stem", "ext", "preset", "model")


@dataclass(frozen=True)
class Naming:
    """How results are called.

    Attributes:
        template: fields `{dir}` (with a final `/`), `{stem}`, `{ext}` (with its dot), `{preset}`,
            `{model}`.
        preset: for the template.
        model: for the template.
        extension: gives the extension of the result of a source.
    """

    template: str
    preset: str
    model: str
    extension: Callable[[str], str]

    def name(self, src: str, stem: str) -> str:
        """The name of a source's result, with `stem` for its own.

        Raises:
            PlanError: The template has an unknown field, or leads out of the destination.
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
                f'--name "{self.template}": "{single_line(name)}" is no name in the destination'
            )
        return path.as_posix()

    @functools.cached_property
    def _parts(self) -> list[tuple[str, str | None]]:
        """The template as texts, each with the field that follows it, if one does."""
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
class _Places:
    """Names that are taken, by their spelling: of files, and of the folders above them."""

    spelling: Spelling
    owners: Mapping[str, str]
    files: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)

    def holder(self, dst: str, src: str) -> str | None:
        """The other source because of which `dst` cannot be a result of `src`."""
        key, above = self._keys(dst)
        for held in (self.files.get(key), self.owners.get(key), self.folders.get(key)):
            if held not in (None, src):
                return held
        return next((self.files[folder] for folder in above if folder in self.files), None)

    def take(self, dst: str, src: str) -> None:
        key, above = self._keys(dst)
        self.files[key] = src
        self.folders.update(dict.fromkeys(above, src))

    def _keys(self, dst: str) -> tuple[str, list[str]]:
        key = self.spelling(dst)
        parts = key.split("/")
        return key, ["/".join(parts[:end]) for end in range(1, len(parts))]


def name_outputs(
    sources: Iterable[str],
    naming: Naming,
    owners: Mapping[str, str] | None = None,
    spelling: Spelling = exact,
) -> dict[str, str]:
    """Names of the results by names of the sources.

    A second source of the same result's name keeps its whole name: `a.png` and `a.jpg` become
    `a.webp` and `a.jpg.webp`.

    Args:
        sources: names below the source folder.
        naming: how results are called.
        owners: sources by the names of results that would replace them; only their own may.
        spelling: how the destination compares names.

    Raises:
        PlanError: The template has an unknown field, or leads out of the destination.
        CollisionError: Two results would still have one name, or one that of a folder.
    """
    owned = {spelling(name): src for name, src in (owners or {}).items()}
    places = _Places(spelling, owned)
    named = {}
    for src in sources:
        dst = naming.name(src, PurePosixPath(src).stem)
        if places.holder(dst, src) is not None:
            dst = naming.name(src, PurePosixPath(src).name)
        holder = places.holder(dst, src)
        if holder is not None:
            raise CollisionError(
                f"{single_line(holder)} and {single_line(src)} would both become"
                f" {single_line(dst)}",
                hint="rename one of them, or name the results with --name",
            )
        places.take(dst, src)
        named[src] = dst
    return named


def name_apart(
    sources: Iterable[str], naming: Naming, owners: Mapping[str, str], destination: Path
) -> dict[str, str]:
    """As `name_outputs`, with names that stay apart in the file system of the destination."""
    sources = list(sources)
    named = name_outputs(sources, naming, owners)
    if not have_twins({*named.values(), *owners}):
        return named
    spelling = spelling_in(destination)
    return named if spelling is exact else name_outputs(sources, naming, owners, spelling)
