"""Opens a model: finds its files, reads the card, selects tile, device, precision and batch."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

from varfix.engine.models.card import ModelCard
from varfix.engine.settings.types import Settings
from varfix.onnx.files.model_files import find_model
from varfix.onnx.inference.auto_batch import measured_batch
from varfix.onnx.inference.companion_graphs import (
    CompanionGraphs,
    early_prior,
    restore_graph,
    runs_on_cpu,
)
from varfix.onnx.inference.devices import DeviceRequest, Warn, parse_device, start_requested
from varfix.onnx.inference.memory_guard import estimated_batch
from varfix.onnx.inference.model_info import read_model_info
from varfix.onnx.inference.multi_gpu import MultiGpuRestorer
from varfix.onnx.inference.restorer import Graphs, ModelRestorer, OnnxRestorer, Placement
from varfix.onnx.inference.runtime import CPU, SessionPlan
from varfix.onnx.inference.signature import (
    check_level,
    check_overlap,
    check_resize_whole,
    check_tile,
    other_inputs,
    read_signature,
    tile_size,
)


def open_restorer(
    model: str, settings: Settings, *, warn: Warn | None = None, threads: int | None = None
) -> ModelRestorer:
    """Open `model` on the device of `settings`.

    Args:
        model: A registry name, or the path of an .onnx file.
        settings: Device, precision, tile and batch are used.
        warn: Called with a code and a message for everything that differs from the request or
            reduces quality; None = Python warnings.
        threads: Threads of a computation on a CPU; None = all usable cores.

    Raises:
        ConfigError: The device or tile size is invalid.
        ModelMissingError: The model or one of its files is missing.
        ModelContractError: The files are not a supported model.
        DeviceUnavailableError: The named device does not start.
    """
    warn = warn or _python_warning
    request = parse_device(settings.device)
    restorers = [_open(model, settings, each, warn, threads) for each in request.each()]
    return restorers[0] if len(restorers) == 1 else MultiGpuRestorer(restorers, request.text)


def _open(
    model: str, settings: Settings, request: DeviceRequest, warn: Warn, threads: int | None
) -> OnnxRestorer:
    """Open a model on one device; see `open_restorer`."""
    found, wanted = find_model(model), settings.model.precision
    info = read_model_info(found)
    card = info.card
    size = tile_size(settings.tile.size, card)
    step = size if settings.tile.size else min(info.step, size)
    check_overlap(settings.tile.overlap, size)
    check_resize_whole(settings.tile.resize_whole, card)
    check_level(settings.model.level, card)
    _warn_of_limits(card, settings, warn)
    with ThreadPoolExecutor(1, "load") as loader:
        early = early_prior(loader, found, card, request, threads)
        graph = restore_graph(found, card, runs_on_cpu(request) and wanted == "int8")
        # Free shapes are as fast as pinned ones on a CPU, so one session serves all shapes.
        session, device = start_requested(
            graph,
            request,
            lambda on: (
                SessionPlan(on, threads=threads)
                if on == CPU and step < size
                else SessionPlan(on, info.dims(size), shapes=info.shapes(size), threads=threads)
            ),
            warn,
        )
        signature = read_signature(session, found.restore, other_inputs(card))
        check_tile(session, signature, card, size)
        companions = CompanionGraphs(
            found, card, request, device, info.dims(size), info.shapes(size), threads
        )
        graphs = Graphs(
            restore=session,
            signature=signature,
            fp16=companions.fp16(wanted, warn),
            prior=companions.prior() if early is None else early.result(),
            precision="fp32" if graph == found.restore else "int8",
            specialists=companions.specialists(),
        )
    batch = signature.batch or settings.tile.batch or estimated_batch(card, device, size)
    step = step if device == CPU and len(signature.dims) == 2 else size
    level = _level(settings.model.level, card)
    placement = Placement(request.text, device, tile=size, step=step, batch=batch, level=level)
    restorer = OnnxRestorer(card, graphs, placement, warn)
    if signature.batch is None and settings.tile.batch is None and device != CPU:
        restorer.set_batch(measured_batch(restorer, device))
    return restorer


def _level(requested: float | None, card: ModelCard) -> float | None:
    """Return the value for the graph's input `level`; None if it has no such input."""
    if not card.level:
        return None
    return card.level_default if requested is None else requested


def _warn_of_limits(card: ModelCard, settings: Settings, warn: Warn) -> None:
    for task in settings.model.tasks:
        if task not in card.tasks and set(card.tasks) - {"auto"} and task != "auto":
            warn("task_untrained", f"{card.name} was not trained for {task}")
    if card.tiling_limit:
        warn("tiling_discouraged", f"{card.name} {card.tiling_limit}")


def _python_warning(code: str, message: str) -> None:
    warnings.warn(f"{message} ({code})", stacklevel=3)
