"""Quantize the restore graph of VarFormer-S to 8-bit integers, for CPUs.

The residual blocks, nine tenths of the work, compute in integers. The values between them, the
prior's layers and the finest blocks of the decoder, which determine the pixels, stay in floating
point. The ranges are calibrated on photos that varfix degrades as in training. Weights use seven of
eight bits: two products of full bytes overflow the 16 bits in which x86 processors without VNNI sum
them. Needs the extra `train`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from varfix.engine.errors import ModelContractError, NothingToDoError
from varfix.engine.models.card import TASKS
from varfix.engine.restoration.restore_image import restore_image
from varfix.engine.restoration.restorer import Floats, RestoredTiles
from varfix.engine.restoration.restorer_proxy import RestorerProxy
from varfix.engine.settings.types import ModelSettings, Settings
from varfix.engine.train.data.photos import SUFFIXES, apply_crop, decode, random_crop
from varfix.engine.train.degradations.mix import DEGRADATIONS, Mix, degrade
from varfix.engine.train.initial_weights import HALF
from varfix.onnx.export.int8_weights import channel_scales
from varfix.onnx.files.card import MADE_FROM, int8_path, read_card, write_card
from varfix.onnx.inference.open_model import open_restorer
from varfix.onnx.inference.runtime import CPU, SessionPlan, start

BLOCKS: Final = re.compile(r"network\.(encoder\.\d|decoder\.[12]|middle)\.\d\.conv[12]\.weight")
"""Weights that are quantized. With those of `decoder.0`, clean images lose 0.1 dB (measured)."""

CALIBRATION_IMAGES: Final = 78
SIDE: Final = 256
MAX_RMS: Final = 0.01
"""Largest root mean square difference from fp32 that is accepted."""

_WEIGHTS: Final = 63
_LEVELS: Final = 255

Ranges = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class CalibrationSample:
    """Inputs of a restore graph: tiles (N, 3, H, W) and their parts of the prior."""

    tile: Floats
    prior: Floats


def export_int8(model: Path, photos: Path) -> float:
    """Write the int8 variant of a model, `NAME.int8.onnx`, next to it.

    Args:
        model: An exported VarFormer-S.
        photos: Folder of photos for calibration; do not use images of a test set.

    Returns:
        The root mean square difference from the model on degraded photos, in [0, 1].

    Raises:
        NothingToDoError: The folder contains no photos.
        ModelContractError: The model is another network, or the result differs too much.
    """
    samples = list(_samples(model, _load_photos(photos)))
    graph = onnx.load(model)
    quantize(graph, calibrate(graph, samples))
    target, card = int8_path(model), read_card(model)
    graph.metadata_props.add(key=MADE_FROM, value=card.sha256)
    onnx.save(graph, target)
    write_card(target, card)
    distance = _rms_difference(model, target, samples[:: len(DEGRADATIONS) // 2])
    if not distance <= MAX_RMS:
        target.unlink()
        raise ModelContractError(
            f"{target.name}: differs by {distance:.3g} from fp32 (allowed {MAX_RMS})"
        )
    return distance


def _load_photos(folder: Path) -> list[np.ndarray]:
    """Load photos, evenly spaced over the sorted names of the folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    chosen = files[:: max(1, len(files) // CALIBRATION_IMAGES)]
    found = [image for path in chosen if (image := decode(path)) is not None]
    if not found:
        raise NothingToDoError(f"no photos found: {folder}")
    return found


def _samples(model: Path, photos: Sequence[np.ndarray]) -> Iterator[CalibrationSample]:
    """Run the model on photos with each degradation in turn; yield the graph's inputs."""
    settings = Settings(device="cpu", model=ModelSettings(precision="fp32"))
    restorer = _InputRecorder(open_restorer(str(model), settings, warn=lambda code, text: None))
    rng = torch.Generator().manual_seed(0)
    names = list(DEGRADATIONS)
    for number in range(CALIBRATION_IMAGES):
        photo = photos[number % len(photos)]
        cut = apply_crop(photo, random_crop(photo.shape[:2], SIDE, rng), SIDE)
        clean = torch.as_tensor(cut).permute(2, 0, 1)[None].float() / 255.0
        damaged = degrade(clean, Mix({names[number % len(names)]: 1.0}), rng)
        task = ModelSettings(task=TASKS[int(damaged.task[0])])
        pixels = damaged.image[0].permute(1, 2, 0).contiguous().numpy()
        restore_image(restorer, pixels, msgspec.structs.replace(settings, model=task))
        yield from restorer.recorded()


class _InputRecorder(RestorerProxy):
    """A restorer that records the inputs of its graph."""

    def __init__(self, restorer: Any) -> None:
        super().__init__(restorer)
        self._samples: list[CalibrationSample] = []

    def restore(self, tiles: Floats, prior: Floats | None) -> RestoredTiles:
        """Record the tiles and return them unchanged."""
        if prior is None:
            raise ModelContractError("not a VarFormer-S: the model has no prior")
        planes = np.ascontiguousarray(tiles.transpose(0, 3, 1, 2), np.float32)
        self._samples.append(CalibrationSample(planes, np.ascontiguousarray(prior, np.float32)))
        return RestoredTiles(tiles)

    def recorded(self) -> list[CalibrationSample]:
        """Return the samples since the last call."""
        samples, self._samples = self._samples, []
        return samples


def calibrate(model: onnx.ModelProto, samples: Sequence[CalibrationSample]) -> Ranges:
    """Return the range of every value that enters or leaves a quantized block.

    Raises:
        ModelContractError: The graph has no blocks of VarFormer-S.
    """
    names = sorted({name for block in _blocks(model.graph) for name in block.values})
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    del extended.graph.output[:]
    for name in names:
        extended.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = start(extended.SerializeToString(), SessionPlan(CPU))
    ranges: Ranges = {}
    for sample in samples:
        found = session.run(names, {"tile": sample.tile, "prior": sample.prior})
        for name, values in zip(names, found, strict=True):
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = min(low, float(values.min())), max(high, float(values.max()))
    return ranges


@dataclass(frozen=True)
class _QuantizedConv:
    """A convolution to be quantized, and the activation after it, if any."""

    conv: onnx.NodeProto
    activation: onnx.NodeProto | None

    @property
    def values(self) -> list[str]:
        """Names of the values before, between and after the nodes."""
        nodes = [self.conv] if self.activation is None else [self.conv, self.activation]
        return [self.conv.input[0], *(node.output[0] for node in nodes)]


def _blocks(graph: onnx.GraphProto) -> list[_QuantizedConv]:
    convs = [
        node for node in graph.node if node.op_type == "Conv" and BLOCKS.fullmatch(node.input[1])
    ]
    if not convs:
        raise ModelContractError("not a VarFormer-S: the graph has none of its blocks")
    activations = {node.input[0]: node for node in graph.node if node.op_type == "LeakyRelu"}
    return [_QuantizedConv(conv, activations.get(conv.output[0])) for conv in convs]


def quantize(model: onnx.ModelProto, ranges: Ranges) -> None:
    """Quantize the convolutions of the blocks, in place.

    Values are quantized and dequantized before and after every convolution (the QDQ format, which
    ONNX Runtime fuses into integer kernels); weights have a scale per channel.
    """
    rewriter = _QdqWriter(model.graph, ranges)
    for block in _blocks(model.graph):
        rewriter.convert(block)
    rewriter.finish()


@dataclass
class _QdqWriter:
    """Collects the nodes to insert before and after others, and inserts them at the end."""

    graph: onnx.GraphProto
    ranges: Ranges
    before: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    after: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    rounded: dict[str, str] = field(default_factory=dict)

    def convert(self, block: _QuantizedConv) -> None:
        """Convert a convolution and its activation."""
        conv = block.conv
        source, weight, bias = conv.input
        scale, _ = self._scale(source)
        before = self.before.setdefault(conv.name, [])
        if source not in self.rounded:
            self.rounded[source] = f"{source}.rounded"
            before += self._rounding(source, source, f"{source}.rounded")
        conv.input[0] = self.rounded[source]
        conv.input[1], conv.input[2] = self._weights(weight, bias, scale, before)
        self._round_result(conv)
        if block.activation is not None:
            self._round_result(block.activation)

    def finish(self) -> None:
        """Insert the collected nodes, and remove weights that are no longer used."""
        nodes = [
            each
            for node in self.graph.node
            for each in (*self.before.get(node.name, ()), node, *self.after.get(node.name, ()))
        ]
        used = {name for node in nodes for name in node.input}
        used |= {output.name for output in self.graph.output}
        alive = [node for node in nodes if used.intersection(node.output)]
        del self.graph.node[:]
        self.graph.node.extend(alive)
        used = {name for node in alive for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _round_result(self, node: onnx.NodeProto) -> None:
        """Quantize a node's result; the dequantized value keeps the name."""
        name = node.output[0]
        node.output[0] = f"{name}.raw"
        self.after[node.name] = self._rounding(f"{name}.raw", name, name)
        self.rounded[name] = name

    def _rounding(self, source: str, key: str, target: str) -> list[onnx.NodeProto]:
        scale, zero = self._scale(key)
        parameters = [self._store(f"{key}.scale", scale), self._store(f"{key}.zero", zero)]
        return [
            helper.make_node("QuantizeLinear", [source, *parameters], [f"{key}.byte"]),
            helper.make_node("DequantizeLinear", [f"{key}.byte", *parameters], [target]),
        ]

    def _scale(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the scale and the zero point; zero is always in the range."""
        low, high = self.ranges[name]
        scale = np.float32(max(high - low, 1e-6) / _LEVELS)
        return np.array(scale), np.array(np.clip(round(-low / scale), 0, _LEVELS), np.uint8)

    def _weights(
        self, weight: str, bias: str, scale: np.ndarray, before: list[onnx.NodeProto]
    ) -> tuple[str, str]:
        values, offsets = self._constant(weight), self._constant(bias)
        scales = channel_scales(values, _WEIGHTS)
        whole = np.round(values / scales).astype(np.int8)
        scales = scales.ravel()
        joint = (scale * scales).astype(np.float32)
        for name, numbers, steps in (
            (weight, whole, scales),
            (bias, np.round(offsets / joint).astype(np.int32), joint),
        ):
            parameters = [
                self._store(f"{name}.whole", numbers),
                self._store(f"{name}.scale", steps),
                self._store(f"{name}.zero", np.zeros(len(steps), numbers.dtype)),
            ]
            before.append(
                helper.make_node("DequantizeLinear", parameters, [f"{name}.wide"], axis=0)
            )
        return f"{weight}.wide", f"{bias}.wide"

    def _constant(self, name: str) -> np.ndarray:
        found = {tensor.name: tensor for tensor in self.graph.initializer}
        stored = found.get(f"{name}{HALF}") or found[name]
        return numpy_helper.to_array(stored).astype(np.float32)

    def _store(self, name: str, values: np.ndarray) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name


def _rms_difference(model: Path, quantized: Path, samples: Sequence[CalibrationSample]) -> float:
    """Return the root mean square difference of two models' results."""
    sessions = [start(path, SessionPlan(CPU)) for path in (model, quantized)]
    squares = []
    for sample in samples:
        feeds = {"tile": sample.tile, "prior": sample.prior}
        first, second = (session.run(["restored"], feeds)[0] for session in sessions)
        squares.append(np.square(np.asarray(first, np.float64) - second).mean())
    return float(np.sqrt(np.mean(squares)))
