"""`varfix doctor`: tests what works on this machine."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Final

import click
import msgspec

from varfix.cli.options import Command, option, terminal_options
from varfix.cli.terminal import Terminal, join_hint
from varfix.engine.errors import ExitCode, VarfixError

if TYPE_CHECKING:
    from varfix.engine.video.encode.encoder_check import EncoderStatus
    from varfix.onnx.inference.devices import DeviceCheck

# Distributions whose versions matter in a bug report; the last two come with an extra.
_LIBRARIES: Final = (
    "varfix",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "tifffile",
    "av",
    "torch",
    "onnx",
)


class FormatStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a format can be written and read back; `detail` holds the reason if not."""

    format: str
    depth: int
    works: bool
    detail: str = ""


class DoctorReport(msgspec.Struct, frozen=True, kw_only=True):
    """Results of all checks; any `problems` cause exit code 5."""

    python: str
    system: str
    versions: dict[str, str]
    devices: DeviceCheck | None
    codecs: tuple[FormatStatus, ...]
    encoders: tuple[EncoderStatus, ...]
    config: str
    problems: tuple[str, ...]


@click.command("doctor", cls=Command)
@option(
    "Messages", "--json", "as_json", is_flag=True, help="Print one JSON object instead of text."
)
@terminal_options
def command(as_json: bool, terminal: Terminal) -> int:
    """Check what works here: devices, image formats, video encoders, versions.

    Every provider of ONNX Runtime computes a small graph; every image format and every video
    encoder writes a file, which is read back. Exit code 0 without problems, else 5. A missing GPU
    encoder is not a problem.
    """
    with terminal.busy("Testing devices and formats"):
        report = _examine()
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        for line in _lines(report):
            click.echo(line)
    return ExitCode.DEVICE if report.problems else ExitCode.OK


def _examine() -> DoctorReport:
    from varfix.engine.system.app_folders import config_folder
    from varfix.engine.video.encode.encoder_check import check_encoders

    devices, problems = _devices()
    codecs, encoders = tuple(_codecs()), tuple(check_encoders())
    broken = [
        f"{codec.format} ({codec.depth} bit): {codec.detail}" for codec in codecs if not codec.works
    ]
    broken += [
        f"{each.codec}: {each.detail}" for each in encoders if each.needed and not each.works
    ]
    return DoctorReport(
        python=platform.python_version(),
        system=platform.platform(),
        versions=_versions(),
        devices=devices,
        codecs=codecs,
        encoders=encoders,
        config=str(config_folder() / "varfix.yaml"),
        problems=(*problems, *broken),
    )


def _devices() -> tuple[DeviceCheck | None, list[str]]:
    """Check the devices; return the results and the problems."""
    from varfix.onnx.inference.devices import check_devices

    try:
        devices = check_devices()
    except VarfixError as error:
        return None, [join_hint(error.message, error.hint)]
    problems = [devices.conflict] if devices.conflict else []
    works = {provider.device: provider for provider in devices.providers}
    if "cpu" not in works or not works["cpu"].works:
        problems.append("ONNX Runtime does not compute on the CPU; reinstall varfix")
    if devices.gpus and devices.auto == "cpu":
        cuda = works.get("cuda:0")
        why = cuda.detail if cuda else "the installed ONNX Runtime has no CUDA provider"
        problems.append(f'a GPU is present but not used ({why}); run: pip install "varfix[cuda]"')
    return devices, problems


def _codecs() -> Iterator[FormatStatus]:
    """Write and read back a small image in every format and depth."""
    import numpy as np

    from varfix.engine.formats import FORMATS
    from varfix.engine.image.decoded_image import DecodedImage, ImageInfo
    from varfix.engine.image.reader import decode_image
    from varfix.engine.image.writer import encode_image_bytes
    from varfix.engine.settings.types import OutputSettings

    for form in (form for form in FORMATS.values() if form.available):
        for depth in form.depths:
            pixels = np.full((32, 32, 3), 0.5, np.float32)
            image = DecodedImage(pixels, None, ImageInfo(format=form.name, depth=depth))
            detail = ""
            try:
                data = encode_image_bytes(image, form.name, OutputSettings())
                back = decode_image(data, max_pixels=pixels.size)
                if np.abs(back.pixels - pixels).max() > 0.02 or back.info.depth != depth:
                    detail = "the decoded image differs from the encoded one"
            except Exception as error:  # each library has its own exceptions
                detail = str(error) or type(error).__name__
            yield FormatStatus(format=form.name, depth=depth, works=not detail, detail=detail)


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _lines(report: DoctorReport) -> Iterator[str]:
    yield f"Python {report.python} on {report.system}"
    yield ", ".join(f"{name} {version}" for name, version in report.versions.items())
    yield f"Configuration: {report.config}"
    if report.devices is not None:
        yield from _device_lines(report.devices)
    yield "\nFormats:"
    for codec in report.codecs:
        yield f"  {codec.format:5} {codec.depth:2} bit  {_verdict(codec.works, codec.detail)}"
    yield "\nVideo encoders:"
    yield from _encoder_lines(report.encoders)
    yield "\nProblems:" if report.problems else "\nNo problems."
    yield from (f"  {problem}" for problem in report.problems)


def _device_lines(devices: DeviceCheck) -> Iterator[str]:
    packages = ", ".join(devices.packages) or f"onnxruntime {devices.runtime}"
    yield f"\nDevices ({packages}; {devices.cores} CPU cores):"
    for gpu in devices.gpus:
        yield f"  found: {gpu.name}, {gpu.total_mb} MB, {gpu.free_mb} MB free"
    for status in devices.providers:
        yield f"  {status.device:11} {status.provider:26} {_verdict(status.works, status.detail)}"
    yield f"  --device auto takes {devices.auto}"


def _encoder_lines(encoders: tuple[EncoderStatus, ...]) -> Iterator[str]:
    for status in encoders:
        if status.needed or status.works:
            yield f"  {status.codec:11} {status.encoder:12} {_verdict(status.works, status.detail)}"
    missing = [status.encoder for status in encoders if not (status.needed or status.works)]
    if missing:
        yield f"  no hardware or driver for {', '.join(missing)}"


def _verdict(works: bool, detail: str) -> str:
    return "works" if works else f"no: {detail}"
