"""Opens a model: finds its files, reads the card, settles tile, device, precision and batch.

What it could not have of what was asked for, it tells. What is open then only computes
(`varfix.onnx.inference.restorer`), on one device or on several (`varfix.onnx.inference.multi_gpu`).
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

from varfix.engine.models.card import ModelCard
from varfix.engine.settings.types import Settings
from varfix.onnx.files.model_files import find_model
from varfix.onnx.inference.auto_batch import tuned_batch
from varfix.onnx.inference.companion_graphs import (
    Opening,
    early_prior,
    restore_graph,
    surely_on_cpu,
)
from varfix.onnx.inference.devices import DeviceRequest, Warn, parse_device, start_requested
from varfix.onnx.inference.memory_guard import auto_batch
from varfix.onnx.inference.model_info import read_facts
from varfix.onnx.inference.multi_gpu import SpreadRestorer
from varfix.onnx.inference.restorer import Graphs, OnnxRestorer, Placement
from varfix.onnx.inference.runtime import CPU, SessionPlan
from varfix.onnx.inference.signature import (
    check_overlap,
    check_tile,
    check_whole,
    read_signature,
    tile_size,
)

__all__ = ["Graphs", "OnnxRestorer", "Placement", "open_restorer"]


def open_restorer(model: str, settings: Settings, *, warn: Warn | None = None) -> OnnxRestorer:
    """Find `model`, start it where `settings` want it, and return it ready to run.

    Args:
        model: A registry name, or the path of an .onnx file.
        settings: Device, precision, tile and batch are read here.
        warn: Called with a code and a sentence for everything that differs from the request or
            hurts the result; without it, Python's own warnings tell.

    Raises:
        ConfigError: The device or tile size makes no sense.
        ModelMissingError: There is no such model, or not all of its files.
        ModelContractError: The files are not a model that varfix runs.
        DeviceUnavailableError: A device was asked for by name and does not start.
    """
    warn = warn or _python_warning
    request = parse_device(settings.device)
    crew = [_opened(model, settings, one, warn) for one in request.each()]
    return crew[0] if len(crew) == 1 else SpreadRestorer(crew, request.text)


def _opened(model: str, settings: Settings, request: DeviceRequest, warn: Warn) -> OnnxRestorer:
    """Open a model on one device; see `open_restorer`."""
    found, wanted = find_model(model), settings.model.precision
    facts = read_facts(found)
    card = facts.card
    size = tile_size(settings.tile.size, card)
    step = size if settings.tile.size else min(facts.step, size)
    check_overlap(settings.tile.overlap, size)
    check_whole(settings.tile.resize_whole, card)
    _warn_of_limits(card, settings, warn)
    with ThreadPoolExecutor(1, "load") as loader:
        early = early_prior(loader, found, card, request)
        graph = restore_graph(found, card, surely_on_cpu(request) and wanted == "int8")
        # A CPU computes every shape as fast as a pinned one: left free, one session does for all.
        session, device = start_requested(
            graph,
            request,
            lambda on: (
                SessionPlan(on)
                if on == CPU and step < size
                else SessionPlan(on, facts.dims(size), shapes=facts.shapes(size))
            ),
            warn,
        )
        signature = read_signature(session, found.restore, card.guidance)
        check_tile(session, signature, card, size)
        opening = Opening(found, card, request, device, facts.dims(size), facts.shapes(size))
        graphs = Graphs(
            restore=session,
            signature=signature,
            half=opening.half(wanted, warn),
            prior=opening.prior() if early is None else early.result(),
            precision="fp32" if graph == found.restore else "int8",
        )
    batch = signature.batch or settings.tile.batch or auto_batch(card, device, size)
    step = step if device == CPU and len(signature.dims) == 2 else size
    placement = Placement(request.text, device, tile=size, step=step, batch=batch)
    restorer = OnnxRestorer(card, graphs, placement, warn)
    if signature.batch is None and settings.tile.batch is None and device != CPU:
        restorer.set_batch(tuned_batch(restorer, device))
    return restorer


def _warn_of_limits(card: ModelCard, settings: Settings, warn: Warn) -> None:
    task = settings.model.task
    if task not in card.tasks and set(card.tasks) - {"auto"} and task != "auto":
        warn("task_untrained", f"{card.name} was not trained for {task}")
    if card.tiling == "discouraged":
        warn("tiling_discouraged", f"{card.name} sees more than a tile: tiles may differ in tone")


def _python_warning(code: str, message: str) -> None:
    warnings.warn(f"{message} ({code})", stacklevel=3)
