"""The other graphs of a model: its int8 variant, its prior graph, its fp16 graph."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from varfix.engine.errors import ModelMissingError
from varfix.engine.models.card import ModelCard
from varfix.onnx.files.card import check_companion, check_int8_companion
from varfix.onnx.files.model_files import ModelFiles
from varfix.onnx.inference.devices import DeviceRequest, Warn, start_named
from varfix.onnx.inference.hardware import gpu_visible
from varfix.onnx.inference.runtime import CPU, Device, Session, SessionPlan
from varfix.onnx.inference.signature import TILE, check_prior, read_signature
from varfix.onnx.inference.specialists import Specialists


def early_prior(
    loader: ThreadPoolExecutor,
    found: ModelFiles,
    card: ModelCard,
    request: DeviceRequest,
    threads: int | None,
) -> Future[Session | None] | None:
    """Start the prior graph in parallel with the restore graph if the CPU runs both."""
    if not runs_on_cpu(request):
        return None
    return loader.submit(CompanionGraphs(found, card, request, CPU, {}, threads=threads).prior)


def runs_on_cpu(request: DeviceRequest) -> bool:
    """Return whether the CPU will run a model; False if a GPU may be used."""
    return request.device == CPU or (request.device is None and not gpu_visible())


def restore_graph(found: ModelFiles, card: ModelCard, int8: bool) -> Path:
    """Return the restore graph to start: the fp32 graph, or its int8 variant.

    Raises:
        ModelMissingError: The int8 variant is requested and does not exist.
        ModelContractError: The int8 variant belongs to another graph.
    """
    if not int8:
        return found.restore
    if not found.int8.is_file():
        raise ModelMissingError(
            f"{found.name}: int8 variant not found ({found.int8.name})",
            hint="use --precision auto",
        )
    check_int8_companion(card, found.int8, found.restore)
    return found.int8


@dataclass(frozen=True)
class CompanionGraphs:
    """Opens the other graphs of a model whose restore graph is running."""

    files: ModelFiles
    card: ModelCard
    request: DeviceRequest
    device: Device
    dims: dict[str, int]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int | None = None

    def prior(self) -> Session | None:
        """Start the prior graph in fp32, as it runs once per image and decides the tone."""
        if self.card.guidance != "image":
            return None
        path = self.files.prior
        check_companion(self.card, path, self.files.restore)
        session = start_named(path, self.request, SessionPlan(self.device, threads=self.threads))
        check_prior(session, path, self.card)
        return session

    def specialists(self) -> Specialists:
        """Return the specialists next to the restore graph; they are started when required."""
        return Specialists(
            {name: partial(self._specialist, path) for name, path in self.files.specialists.items()}
        )

    def _specialist(self, path: Path) -> Session:
        """Start a specialist in fp32."""
        check_companion(self.card, path, self.files.restore)
        dims = {name: size for name, size in self.dims.items() if name in ("height", "width")}
        shapes = {name: shape for name, shape in self.shapes.items() if name == TILE}
        plan = SessionPlan(self.device, dims, shapes=shapes, threads=self.threads)
        if self.device == CPU:
            plan = SessionPlan(self.device, threads=self.threads)
        session = start_named(path, self.request, plan)
        read_signature(session, path)
        return session

    def fp16(self, wanted: str, warn: Warn) -> Session | None:
        """Start the restore graph in fp16 if requested, or if it exists and is validated."""
        if wanted == "fp32":
            return None
        if self.device == CPU or wanted == "int8":
            self._warn_unused(wanted, warn)
            return None
        converts = self.device.kind == "tensorrt"
        path = self.files.restore if converts else self.files.fp16
        if wanted == "auto" and (self.card.fp16 != "ok" or not path.is_file()):
            return None
        if not path.is_file():
            raise ModelMissingError(
                f"{self.files.name}: fp16 variant not found ({path.name})",
                hint="use --precision auto",
            )
        if self.card.fp16 != "ok":
            warn("fp16_unchecked", f"{self.card.name} is {self.card.fp16} in fp16")
        if not converts:
            check_companion(self.card, path, self.files.restore)
        plan = SessionPlan(self.device, self.dims, "fp16", shapes=self.shapes)
        return start_named(path, self.request, plan)

    def _warn_unused(self, wanted: str, warn: Warn) -> None:
        """Warn that the requested precision is not used."""
        if wanted == "fp16":
            warn("precision_fp32", "fp16 gains nothing on a CPU; using fp32")
        elif wanted == "int8" and not runs_on_cpu(self.request):
            warn("int8_on_cpu", f"int8 is for CPUs; using fp32 on {self.device.name}")
