"""Imports spandrel, which recognizes published networks, and the packages that it needs.

spandrel imports torchvision for two networks that are not restorers (LaMa and RestoreFormer). A
torchvision that was built for another PyTorch cannot be imported. While spandrel is imported, such
a
torchvision is replaced by functions that raise an error, and the user gets a hint to repair it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from varfix.engine.errors import ConfigError

if TYPE_CHECKING:
    from spandrel import ArchRegistry

INSTALL: Final = 'run: pip install "varfix[import]"'
EXTRA: Final = "run: pip install spandrel_extra_arches"
_TORCHVISION: Final = "torchvision"
_FUNCTIONS: Final = ("normalize", "rotate")
_MINOR_APART: Final = 15  # torch 2.13 and torchvision 0.28 belong together, and so on


@dataclass(frozen=True)
class Spandrel:
    """The imported library.

    Attributes:
        registry: The networks that it recognizes.
        extra: Names of the networks whose licenses forbid commercial use; empty if they are not
            installed.
        notes: What the user should know about the installed packages.
    """

    registry: ArchRegistry
    extra: frozenset[str]
    notes: tuple[str, ...]


def load_spandrel() -> Spandrel:
    """Import spandrel, and its extra networks if they are installed.

    Raises:
        ConfigError: A package is missing or does not load; the hint says what to install.
    """
    notes: list[str] = []
    with warnings.catch_warnings(action="ignore"), _importing(), _usable_torchvision(notes):
        import spandrel

        registry, extra = spandrel.MAIN_REGISTRY.copy(), _extra_registry()
    registry.add(*extra, ignore_duplicates=True)
    names = frozenset(str(entry.architecture.id) for entry in extra)
    return Spandrel(registry, names, tuple(notes))


def _extra_registry() -> ArchRegistry:
    """Return the extra networks; none if their package is not installed."""
    from spandrel import ArchRegistry

    try:
        from spandrel_extra_arches import EXTRA_REGISTRY
    except ModuleNotFoundError:
        return ArchRegistry()
    found: ArchRegistry = EXTRA_REGISTRY
    return found


@contextmanager
def _importing() -> Iterator[None]:
    """Name the package that does not load (ConfigError)."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "spandrel").partition(".")[0]
        raise ConfigError(
            f"varfix models import requires {missing}, which is not installed", hint=INSTALL
        ) from error
    except Exception as error:  # a broken package can raise anything while it is imported
        raise ConfigError(
            f"spandrel {_version('spandrel')}: does not load with torch {_version('torch')}"
            f" ({_first_line(error)})",
            hint=INSTALL,
        ) from error


@contextmanager
def _usable_torchvision(notes: list[str]) -> Iterator[None]:
    """Put placeholders in the place of a torchvision that cannot be imported."""
    try:
        import torchvision  # noqa: F401
    except Exception as error:  # RuntimeError if it was built for another torch
        if metadata_version(_TORCHVISION) is not None:
            notes.append(torchvision_note(error))
    else:
        yield
        return
    _forget_torchvision()
    sys.modules.update(_placeholders())
    try:
        yield
    finally:
        _forget_torchvision()


def torchvision_note(error: Exception) -> str:
    """Return the fault of the installed torchvision, and the command that repairs it."""
    found, torch = _version(_TORCHVISION), _version("torch")
    wanted = f"0.{int(torch.split('.')[1]) + _MINOR_APART}"
    if found.startswith(f"{wanted}."):  # the right version, built for another kind of device
        install = "pip install --force-reinstall torch torchvision (both from the same place)"
    else:
        install = f'pip install "torchvision=={wanted}.*"'
    return (
        f"torchvision {found}: does not load with torch {torch} ({_first_line(error)}) and is not"
        f" used; to repair it, run: {install}"
    )


def metadata_version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _version(package: str) -> str:
    return metadata_version(package) or "(not installed)"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _forget_torchvision() -> None:
    for name in [*sys.modules]:
        if name == _TORCHVISION or name.startswith(f"{_TORCHVISION}."):
            del sys.modules[name]


def _placeholders() -> dict[str, ModuleType]:
    """Return modules with the names that spandrel imports; calling one is an error."""

    def missing(*values: Any, **named: Any) -> Any:
        raise RuntimeError("this network requires torchvision, which does not load")

    names = (_TORCHVISION, "torchvision.transforms", "torchvision.transforms.functional")
    modules = {name: ModuleType(name) for name in names}
    functional: Any = modules[names[-1]]
    for function in _FUNCTIONS:
        setattr(functional, function, missing)
    functional.InterpolationMode = type("InterpolationMode", (), {"BILINEAR": "bilinear"})
    return modules
