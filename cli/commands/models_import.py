"""`varfix models import`: checkpoints and ONNX files become models with a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from varfix.cli.missing_extras import require_train_extra
from varfix.cli.options import Command, HiddenAliases, option, options_record, terminal_options
from varfix.cli.terminal import Terminal
from varfix.engine.models.registry import MODELS

if TYPE_CHECKING:
    from varfix.engine.models.card import ModelCard
    from varfix.engine.models.registry import Release
    from varfix.onnx.export.import_job import ImportAnswer
    from varfix.onnx.files.installed import Made, SourceFile

UNSTATED: Final = "LicenseRef-unstated"
_NO_TERMS: Final = "The terms of use of this model are unknown.\n"
_EPILOG: Final = """\b
Examples:
  varfix models import nafnet NAFNet-SIDD-width32.pth --license MIT
  varfix dir -m nafnet photos restored
  varfix models import restormer gaussian.pth --allow-noncommercial
  varfix models import other network.onnx --license Apache-2.0
  varfix models import varformer-d16 net_g_last.pth      the official VarFormer

\b
The networks are those of the Python package spandrel that restore RGB or gray images without
changing their size: NAFNet, SCUNet, SwinIR, FBCNN, DRUNet, RetinexFormer and others; with
spandrel_extra_arches also Restormer, MPRNet, MIRNet-v2. The exported file is compared with the
network, and installed only if both agree. Extra: pip install "varfix[import]".
"""


@dataclass(frozen=True)
class Stated:
    """Statements of the user about the weights."""

    license_: str | None
    terms: Path | None
    training: str

    @property
    def text(self) -> str | None:
        """The license text that was given."""
        return self.terms.read_text(encoding="utf-8") if self.terms else None


@dataclass(frozen=True)
class ExportOptions:
    """How a published network is exported."""

    tile: int | None
    free_size: bool
    fp16: bool
    allow_noncommercial: bool
    memory: float | None


@click.command("import", cls=Command, epilog=_EPILOG)
@click.argument("name")
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--arch",
    default="auto",
    metavar="NAME",
    help="Network that varfix exports itself: varformer, restorevar, varformer-s."
    "  [default: from NAME and the files]",
)
@options_record(
    "stated",
    Stated,
    click.option(
        "--license",
        "--licence",
        "license_",
        metavar="SPDX",
        cls=HiddenAliases,
        help="License of the weights, for the model card.",
    ),
    click.option(
        "--terms",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="License text, stored with the model.",
    ),
    click.option(
        "--training",
        default="",
        metavar="TEXT",
        help="Training data of the weights, for the model card.",
    ),
)
@options_record(
    "preferences",
    ExportOptions,
    click.option(
        "--tile",
        type=click.IntRange(min=16, max=4096),
        metavar="N",
        help="Edge of the tiles in pixels.  [default: 256, or 512 if the network sees far]",
    ),
    click.option(
        "--free-size",
        is_flag=True,
        help="Also try a graph for tiles of any size; it is used if three sizes agree.",
    ),
    click.option(
        "--fp16",
        is_flag=True,
        help="Also write an fp16 variant for GPUs; it is kept if it agrees.",
    ),
    click.option(
        "--allow-noncommercial",
        is_flag=True,
        help="Accept networks whose license forbids commercial use.",
    ),
    click.option(
        "--memory",
        type=click.FloatRange(min=0.5),
        metavar="GB",
        help="Memory that the export may use.  [default: 12, or 90 % of the available memory]",
    ),
)
@option("Output", "--overwrite", is_flag=True, help="Replace the model if it is installed.")
@terminal_options
def import_model(  # noqa: PLR0913 (one parameter for each option)
    name: str,
    files: tuple[Path, ...],
    arch: str,
    stated: Stated,
    preferences: ExportOptions,
    overwrite: bool,
    terminal: Terminal,
) -> None:
    """Convert a checkpoint or an ONNX file to a model that --model accepts as NAME.

    FILE is a checkpoint (.pth, .ckpt, .safetensors) or an .onnx file. The model is compared with
    its network, and stored in the user's model folder with its card and license. Nothing in a
    checkpoint is executed.
    """
    from varfix.onnx.files.installed import check_name, check_new, source_files

    check_name(name)
    check_new(name, overwrite)
    with terminal.busy("Reading the files"):
        sources = source_files(files)
    job = ImportJob(name, files, sources, stated, terminal)
    if len(files) == 1 and files[0].suffix == ".onnx":
        job.import_onnx(preferences)
    elif arch != "auto" or _released_as(name) or len(files) > 1:
        job.convert(arch)
    else:
        job.import_published(preferences)


@dataclass(frozen=True)
class ImportJob:
    """Files that become the model `name`."""

    name: str
    files: Sequence[Path]
    sources: Sequence[SourceFile]
    stated: Stated
    terminal: Terminal

    def convert(self, arch: str) -> None:
        """Export a checkpoint of a network of varfix itself, and install the model."""
        self._install(lambda target: self._converted(arch, target))
        self._report_own()

    def import_published(self, preferences: ExportOptions) -> None:
        """Export a checkpoint of a published network, and install the model."""
        from varfix.onnx.files.installed import Made

        cards: list[ModelCard] = []

        def export(target: Path) -> Made:
            with self.terminal.busy(f"Converting {self._named_files}; takes minutes"):
                answer = self._exported(target, preferences)
            for note in answer.notes:
                self.terminal.warn(note)
            if answer.card is None:
                return self._converted(answer.own, target)
            cards.append(answer.card)
            return Made(answer.card.network, self.stated.text or _license_text(answer.card))

        self._install(export)
        if cards:
            self._report(cards[0], preferences)
        else:
            self._report_own()

    def import_onnx(self, preferences: ExportOptions) -> None:
        """Check an ONNX file, and install it as a model."""
        from varfix.onnx.export.import_onnx import StatedCard, import_onnx
        from varfix.onnx.files.installed import Made

        given = StatedCard(self.stated.license_ or UNSTATED, self.stated.training, preferences.tile)
        cards: list[ModelCard] = []

        def export(target: Path) -> Made:
            cards.append(import_onnx(self.files[0], target, given))
            return Made("onnx", self.stated.text or _NO_TERMS)

        with self.terminal.busy(f"Checking {self._named_files}"):
            self._install(export)
        self._report(cards[0], preferences)

    def _converted(self, arch: str, target: Path) -> Made:
        """Export a network of varfix itself."""
        release = _released_as(self.name)
        with self.terminal.busy("Loading PyTorch"), require_train_extra("models import"):
            from varfix.onnx.export.architectures import (
                CardFields,
                architecture_named,
                export_model,
            )
        from varfix.onnx.files.installed import Made

        arch = release.architecture if release and arch == "auto" else arch
        arch = architecture_named(arch, self.files)
        fields = CardFields(
            training=self.stated.training,
            licence=self.stated.license_ or (release.licence if release else UNSTATED),
            depth=release.depth if release else None,
        )
        with self.terminal.busy(f"Converting {self._named_files}; takes minutes"):
            export_model(arch, self.files, target, fields)
        return Made(arch, self.stated.text or _terms_of(release))

    def _exported(self, target: Path, preferences: ExportOptions) -> ImportAnswer:
        from varfix.onnx.export.import_checkpoint import default_limit, import_checkpoint
        from varfix.onnx.export.import_job import ImportRequest
        from varfix.onnx.inference.hardware import usable_cores

        request = ImportRequest(
            checkpoint=str(self.files[0]),
            target=str(target),
            licence=self.stated.license_ or UNSTATED,
            training=self.stated.training,
            tile=preferences.tile,
            free_size=preferences.free_size,
            fp16=preferences.fp16,
            allow_noncommercial=preferences.allow_noncommercial,
            threads=usable_cores(),
        )
        limit = int(preferences.memory * 1e9) if preferences.memory else default_limit()
        return import_checkpoint(request, limit)

    def _install(self, export: Callable[[Path], Made]) -> None:
        from varfix.onnx.files.installed import install

        install(self.name, self.sources, export)

    @property
    def _named_files(self) -> str:
        return ", ".join(path.name for path in self.files)

    def _report_own(self) -> None:
        self.terminal.say(f"{self.name}: installed, verified against the network")

    def _report(self, card: ModelCard, preferences: ExportOptions) -> None:
        """Print what was installed and what should be known about it."""
        size = "any size" if card.multiple < card.tile else f"{card.tile} x {card.tile}"
        network = card.network or "ONNX file"
        self.terminal.say(f"{self.name}: {network}, tiles of {size}, overlap {card.overlap}")
        if card.agreement:
            self.terminal.detail(f"{self.name}: {card.agreement}")
        if card.tiling_limit:
            hint = " (a larger --tile helps)" if card.reach else ""
            self.terminal.warn(f"{self.name} {card.tiling_limit}{hint}")
        if card.licence == UNSTATED:
            self.terminal.warn(f"{self.name}: no license of the weights was stated (--license)")
        if card.noncommercial:
            self.terminal.warn(f"{self.name}: {card.network} is for noncommercial use only")
        if preferences.free_size and card.multiple == card.tile:
            self.terminal.warn(f"{self.name}: other sizes do not agree; tiles have a fixed size")
        if preferences.fp16 and card.fp16 != "ok":
            self.terminal.warn(f"{self.name}: fp16 does not agree, no fp16 variant was written")


def _released_as(name: str) -> Release | None:
    entry = MODELS.get(name)
    return entry.release if entry else None


def _terms_of(release: Release | None) -> str:
    from varfix.onnx.files.installed import terms_of

    return terms_of(release) if release else _NO_TERMS


def _license_text(card: ModelCard) -> str:
    """Return the known terms of use of an imported checkpoint."""
    use = "forbids commercial use" if card.noncommercial else "allows commercial use"
    weights = "not stated" if card.licence == UNSTATED else card.licence
    return (
        f"Weights: {weights}.\n"
        f"Network: {card.network}, {card.network_license}; its license {use}.\n"
    )
