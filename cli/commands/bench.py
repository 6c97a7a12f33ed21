"""`varfix bench`: speed and memory of a model on this machine."""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from varfix.cli.options import Command, ModelOptions, model_options, option, terminal_options
from varfix.cli.terminal import Terminal
from varfix.engine.errors import VarfixError

if TYPE_CHECKING:
    from varfix.engine.evaluation.speed import Speed
    from varfix.engine.restoration.restorer import DeviceUsed
    from varfix.engine.settings.types import Settings

_STARTS: Final = 3
_START_SIZE: Final = 0.25
_EPILOG: Final = """\b
Examples:
  varfix bench                            four sizes
  varfix bench --sizes 0.25,2             fewer sizes
  varfix bench -m mine.onnx --device cuda:0 --json

\b
bare       seconds per megapixel in the model alone, on the tiles of the images
end to end seconds per megapixel from JPEG files to JPEG files, with the model loaded
CPU        CPU seconds of all threads per megapixel in the model alone
memory     peak memory of the process; each size is measured in its own process
start      seconds from the command to one restored image of 0.25 megapixels

The images are synthetic and are removed afterwards. Run nothing else meanwhile.
"""


@dataclass(frozen=True)
class SizeResult:
    """Result of one image size."""

    speed: Speed
    used: DeviceUsed
    device_mb: int | None


@click.command("bench", cls=Command, epilog=_EPILOG)
@model_options
@click.option(
    "--sizes",
    default="0.25,2,12,48",
    metavar="MP,...",
    callback=lambda context, parameter, value: _sizes(value),
    help="Megapixels of the images.  [default: 0.25,2,12,48]",
)
@option(
    "Messages", "--json", "as_json", is_flag=True, help="Print one JSON object instead of a table."
)
@terminal_options
def command(sizes: Sequence[float], model: ModelOptions, as_json: bool, terminal: Terminal) -> None:
    """Measure the speed and memory of a model on this machine.

    Restores synthetic images of several sizes, in the model alone and from files to files. Preset,
    model, device and --set apply.
    """
    settings = model.resolve(terminal).settings
    with terminal.busy("Measuring the start time"):
        start = start_seconds(settings)
    rows = []
    for size in sizes:
        with terminal.busy(f"Measuring {size:g} megapixels"):
            rows.append(measure_in_process(settings, size))
    host = machine()
    if as_json:
        click.echo(msgspec.json.encode(_report(settings, host, start, rows)))
        return
    for line in _lines(settings, host, start, rows):
        click.echo(line)


def _sizes(text: str) -> tuple[float, ...]:
    """Read the list of sizes (click.BadParameter)."""
    try:
        sizes = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"expected numbers separated by commas, got {text!r}") from None
    if not all(0.0 < size <= 400.0 for size in sizes):
        raise click.BadParameter("sizes are megapixels, above 0 and at most 400")
    return sizes


def measure_in_process(settings: Settings, megapixels: float) -> SizeResult:
    """Measure in a new process, because peak memory counts over the life of a process.

    Raises:
        VarfixError: The model or the device failed.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        result = processes.submit(_measured, settings, megapixels).result()
    if isinstance(result, VarfixError):
        raise result
    return result


def _measured(settings: Settings, megapixels: float) -> SizeResult | VarfixError:
    from varfix.engine.evaluation.speed import measure
    from varfix.onnx.inference.open_model import open_restorer

    try:
        before = _device_mb(settings.device)
        restorer = open_restorer(settings.model.name, settings, warn=lambda code, text: None)
        with tempfile.TemporaryDirectory(prefix="varfix-bench-") as folder:
            speed = measure(restorer, settings, megapixels, Path(folder))
        after = _device_mb(restorer.used.device)
    except VarfixError as error:
        return error
    lent = None if after is None else after - (before or 0)
    return SizeResult(speed, restorer.used, lent)


def _device_mb(device: str) -> int | None:
    """Return the used memory of a GPU in MB; None for the CPU."""
    from varfix.onnx.inference.hardware import find_gpu

    if device.startswith("cpu"):
        return None
    _, _, index = device.partition(":")
    gpu = find_gpu(int(index) if index.isdecimal() else 0)
    return None if gpu is None else gpu.total_mb - gpu.free_mb


def start_seconds(settings: Settings) -> float:
    """Return the median seconds from a command to its restored image, in new processes.

    Raises:
        VarfixError: The image could not be restored.
    """
    from varfix.engine.evaluation.speed import synthetic_image
    from varfix.engine.image.decoded_image import DecodedImage, ImageInfo
    from varfix.engine.image.writer import encode_image_bytes
    from varfix.engine.settings.types import OutputSettings

    image = DecodedImage(synthetic_image(_START_SIZE), None, ImageInfo(format="jpeg", depth=8))
    with tempfile.TemporaryDirectory(prefix="varfix-bench-") as name:
        folder = Path(name)
        (folder / "in.jpg").write_bytes(encode_image_bytes(image, "jpeg", OutputSettings()))
        return statistics.median(_timed_start(settings, folder) for _ in range(_STARTS))


def _timed_start(settings: Settings, folder: Path) -> float:
    command = [sys.executable, "-m", "varfix.cli", "image", "-q", "--overwrite"]
    command += ["-m", settings.model.name, "--device", settings.device]
    begun = time.perf_counter()
    done = subprocess.run(
        [*command, str(folder / "in.jpg"), str(folder / "out.jpg")], capture_output=True, text=True
    )
    if done.returncode:
        raise VarfixError(done.stderr.strip() or f"exit code {done.returncode}")
    return time.perf_counter() - begun


def machine() -> dict[str, Any]:
    """Return the hardware and software of the measurement."""
    from varfix.onnx.inference.hardware import list_gpus, usable_cores
    from varfix.onnx.inference.runtime import runtime_version

    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "gpus": [gpu.name for gpu in list_gpus()],
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "runtime": f"onnxruntime {runtime_version()}",
        "varfix": version("varfix"),
    }


def _processor() -> str:
    """Return the name of the processor; `platform` knows only its family on Linux."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _report(
    settings: Settings, host: dict[str, Any], start: float, rows: Sequence[SizeResult]
) -> dict[str, Any]:
    used = rows[0].used
    return {
        "machine": host,
        "model": settings.model.name,
        "device": used.device,
        "provider": used.provider,
        "precision": used.precision,
        "start_seconds": round(start, 3),
        "sizes": [_row_record(row) for row in rows],
    }


def _row_record(row: SizeResult) -> dict[str, Any]:
    speed = row.speed
    return {
        "megapixels": round(speed.megapixels, 3),
        "width": speed.width,
        "height": speed.height,
        "pictures": speed.images,
        "bare_mp_per_second": round(1.0 / speed.model_seconds, 4),
        "end_to_end_mp_per_second": round(1.0 / speed.file_seconds, 4),
        "overhead": round(speed.overhead, 4),
        "cpu_seconds_per_megapixel": round(speed.cpu, 4),
        "busy": speed.busy,
        "memory_mb": round(speed.memory / 1e6),
        "device_memory_mb": row.device_mb,
    }


def _lines(
    settings: Settings, host: dict[str, Any], start: float, rows: Sequence[SizeResult]
) -> Iterator[str]:
    used = rows[0].used
    gpus = "".join(f", {name}" for name in host["gpus"])
    yield f"{host['processor']}, {host['cores']} cores{gpus}; {host['system']}"
    yield (
        f"{settings.model.name} on {used.device} ({used.provider}, {used.precision}), "
        f"{host['runtime']}, varfix {host['varfix']}"
    )
    yield f"start {start:.2f} s\n"
    yield "    size  images   bare s/MP   end to end s/MP   ratio   CPU s/MP   memory   device"
    for row in rows:
        speed = row.speed
        lent = "" if row.device_mb is None else f"{row.device_mb} MB"
        yield (
            f"{speed.megapixels:5.2f} MP  {speed.images:8}  {speed.model_seconds:10.3f}  "
            f"{speed.file_seconds:16.3f}  {speed.overhead:6.3f}  {speed.cpu:9.2f}  "
            f"{speed.memory / 1e6:4.0f} MB  {lent:>7}"
        )
