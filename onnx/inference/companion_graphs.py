"""The graphs beside a restore graph: which one is started, and the prior's and half's sessions."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from varfix.engine.errors import ModelMissingError
from varfix.engine.models.card import ModelCard
from varfix.onnx.files.card import check_companion, check_twin
from varfix.onnx.files.model_files import ModelFiles
from varfix.onnx.inference.devices import DeviceRequest, Warn, start_named
from varfix.onnx.inference.hardware import gpu_visible
from varfix.onnx.inference.runtime import CPU, Device, Session, SessionPlan
from varfix.onnx.inference.signature import check_prior


def early_prior(
    loader: ThreadPoolExecutor, found: ModelFiles, card: ModelCard, request: DeviceRequest
) -> Future[Session | None] | None:
    """Start the prior graph beside the restore graph, where it is known that the CPU runs both."""
    if not surely_on_cpu(request):
        return None
    return loader.submit(Opening(found, card, request, CPU, {}).prior)


def surely_on_cpu(request: DeviceRequest) -> bool:
    """Tell whether it is known, before anything is started, that the CPU will run a model."""
    return request.device == CPU or (request.device is None and not gpu_visible())


def restore_graph(found: ModelFiles, card: ModelCard, integers: bool) -> Path:
    """Return the restore graph to start: in fp32, or its twin in integers.

    Raises:
        ModelMissingError: Integers are wanted, and there is no such graph.
        ModelContractError: It was made from another graph.
    """
    if not integers:
        return found.restore
    if not found.int8.is_file():
        raise ModelMissingError(
            f"{found.name}: there is no int8 graph ({found.int8.name}) beside it.",
            hint="Use --precision auto.",
        )
    check_twin(card, found.int8, found.restore)
    return found.int8


@dataclass(frozen=True)
class Opening:
    """What the companions of an already started restore graph need to know."""

    files: ModelFiles
    card: ModelCard
    request: DeviceRequest
    device: Device
    dims: dict[str, int]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def prior(self) -> Session | None:
        """Start the prior graph, always in fp32: it runs once per image and decides its tone."""
        if self.card.guidance != "image":
            return None
        path = self.files.prior
        check_companion(self.card, path, self.files.restore)
        session = start_named(path, self.request, SessionPlan(self.device))
        check_prior(session, path, self.card)
        return session

    def half(self, wanted: str, warn: Warn) -> Session | None:
        """Start the restore graph in half precision if that was asked for, or is safe and there."""
        if wanted == "fp32":
            return None
        if self.device == CPU or wanted == "int8":
            self._explain(wanted, warn)
            return None
        converts = self.device.kind == "tensorrt"
        path = self.files.restore if converts else self.files.half
        if wanted == "auto" and (self.card.fp16 != "ok" or not path.is_file()):
            return None
        if not path.is_file():
            raise ModelMissingError(
                f"{self.files.name}: there is no fp16 graph ({path.name}) beside it.",
                hint="Use --precision auto.",
            )
        if self.card.fp16 != "ok":
            warn("fp16_unchecked", f"{self.card.name} is {self.card.fp16} in fp16")
        if not converts:
            check_companion(self.card, path, self.files.restore)
        plan = SessionPlan(self.device, self.dims, "fp16", shapes=self.shapes)
        return start_named(path, self.request, plan)

    def _explain(self, wanted: str, warn: Warn) -> None:
        """Say why a precision that was asked for is not used."""
        if wanted == "fp16":
            warn("precision_fp32", "fp16 gains nothing on a CPU; using fp32")
        elif wanted == "int8" and not surely_on_cpu(self.request):
            warn("int8_on_cpu", f"int8 is for CPUs; using fp32 on {self.device.name}")
