"""The restore graph of VarFormer-S in 8-bit integers, for CPUs: twice as fast where it counts.

The residual blocks, nine tenths of the work, multiply integers; what flows between them, the
prior's part and the finest blocks of the decoder, which draw the image, stay as they are. Ranges
of the values come from photographs that varfix damages itself, as training does. Weights get seven
of their eight bits: two products of a full byte overflow the 16 bits in which x86 processors
without VNNI add them up. Needs the extra `train`.
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
from varfix.engine.restoration.restorer import Floats
from varfix.engine.restoration.restorer_proxy import RestorerProxy
from varfix.engine.settings.types import ModelSettings, Settings
from varfix.engine.train.data.photos import SUFFIXES, cut_picture, decode, random_cut
from varfix.engine.train.degradations.mix import DEGRADATIONS, Mix, degrade
from varfix.onnx.files.card import MADE_FROM, int8_path, read_card, write_card
from varfix.onnx.inference.open_model import open_restorer
from varfix.onnx.inference.runtime import CPU, SessionPlan, start

BLOCKS: Final = re.compile(r"network\.(encoder\.\d|decoder\.[12]|middle)\.\d\.conv[12]\.weight")
"""Weights that become integers. With those of `decoder.0` clean images lose 0.1 dB (measured)."""

PICTURES: Final = 78
SIDE: Final = 256
CLOSE: Final = 0.01
"""The root mean square difference from single precision above which something is wrong."""

_WEIGHTS: Final = 63
_LEVELS: Final = 255
_HALF: Final = ".half"

Ranges = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Sample:
    """What a restore graph is run on: tiles (N, 3, H, W) and their pieces of the prior."""

    tile: Floats
    prior: Floats


def export_int8(model: Path, photos: Path) -> float:
    """Write the integer twin of a model, `NAME.int8.onnx`, beside it.

    Args:
        model: an exported VarFormer-S.
        photos: a folder of photographs to learn ranges from; no images to be tested on.

    Returns:
        The root mean square difference from the model on damaged photographs, in [0, 1].

    Raises:
        NothingToDoError: There are no photographs.
        ModelContractError: It is another network, or the result is too far from it.
    """
    samples = list(_samples(model, _photographs(photos)))
    graph = onnx.load(model)
    quantize(graph, measured_ranges(graph, samples))
    target, card = int8_path(model), read_card(model)
    graph.metadata_props.add(key=MADE_FROM, value=card.sha256)
    onnx.save(graph, target)
    write_card(target, card)
    distance = _distance(model, target, samples[:: len(DEGRADATIONS) // 2])
    if not distance <= CLOSE:
        target.unlink()
        raise ModelContractError(
            f"{target.name}: differs by {distance:.3g} from single precision (allowed {CLOSE})."
        )
    return distance


def _photographs(folder: Path) -> list[np.ndarray]:
    """Photographs, evenly spaced over the folder's names."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    chosen = files[:: max(1, len(files) // PICTURES)]
    found = [picture for path in chosen if (picture := decode(path)) is not None]
    if not found:
        raise NothingToDoError(f"no photographs under {folder}")
    return found


def _samples(model: Path, photos: Sequence[np.ndarray]) -> Iterator[Sample]:
    """Run the model on damaged photographs, each damage in turn, and yield what its graph gets."""
    settings = Settings(device="cpu", model=ModelSettings(precision="fp32"))
    restorer = _Listener(open_restorer(str(model), settings, warn=lambda code, text: None))
    rng = torch.Generator().manual_seed(0)
    names = list(DEGRADATIONS)
    for number in range(PICTURES):
        photo = photos[number % len(photos)]
        cut = cut_picture(photo, random_cut(photo.shape[:2], SIDE, rng), SIDE)
        clean = torch.as_tensor(cut).permute(2, 0, 1)[None].float() / 255.0
        damaged = degrade(clean, Mix({names[number % len(names)]: 1.0}), rng)
        task = ModelSettings(task=TASKS[int(damaged.task[0])])
        pixels = damaged.picture[0].permute(1, 2, 0).contiguous().numpy()
        restore_image(restorer, pixels, msgspec.structs.replace(settings, model=task))
        yield from restorer.taken()


class _Listener(RestorerProxy):
    """A restorer that keeps what its graph was given."""

    def __init__(self, restorer: Any) -> None:
        super().__init__(restorer)
        self._samples: list[Sample] = []

    def restore(self, tiles: Floats, prior: Floats | None) -> Floats:
        """Keep the tiles; nobody looks at the result."""
        if prior is None:
            raise ModelContractError("this model takes no prior: it is no VarFormer-S.")
        planes = np.ascontiguousarray(tiles.transpose(0, 3, 1, 2), np.float32)
        self._samples.append(Sample(planes, np.ascontiguousarray(prior, np.float32)))
        return tiles

    def taken(self) -> list[Sample]:
        """What was kept since the last time."""
        samples, self._samples = self._samples, []
        return samples


def measured_ranges(model: onnx.ModelProto, samples: Sequence[Sample]) -> Ranges:
    """The least and greatest value of everything that the integer blocks take and give.

    Raises:
        ModelContractError: The graph has no such blocks.
    """
    names = sorted({name for block in _blocks(model.graph) for name in block.values})
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    for name in names:
        watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = start(watched.SerializeToString(), SessionPlan(CPU))
    ranges: Ranges = {}
    for sample in samples:
        found = session.run(names, {"tile": sample.tile, "prior": sample.prior})
        for name, values in zip(names, found, strict=True):
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = min(low, float(values.min())), max(high, float(values.max()))
    return ranges


@dataclass(frozen=True)
class _Block:
    """A convolution that becomes one of integers, and the activation behind it, if there is one."""

    conv: onnx.NodeProto
    activation: onnx.NodeProto | None

    @property
    def values(self) -> list[str]:
        """Names of what flows in, between and out."""
        nodes = [self.conv] if self.activation is None else [self.conv, self.activation]
        return [self.conv.input[0], *(node.output[0] for node in nodes)]


def _blocks(graph: onnx.GraphProto) -> list[_Block]:
    convs = [
        node for node in graph.node if node.op_type == "Conv" and BLOCKS.fullmatch(node.input[1])
    ]
    if not convs:
        raise ModelContractError("this graph has no blocks of VarFormer-S.")
    behind = {node.input[0]: node for node in graph.node if node.op_type == "LeakyRelu"}
    return [_Block(conv, behind.get(conv.output[0])) for conv in convs]


def quantize(model: onnx.ModelProto, ranges: Ranges) -> None:
    """Make the blocks' convolutions work in integers, in place.

    Values are rounded where they enter a convolution and where they leave one, in the form (QDQ)
    that ONNX Runtime fuses into integer kernels; weights have a scale for each channel.
    """
    rewriter = _Rewriter(model.graph, ranges)
    for block in _blocks(model.graph):
        rewriter.convert(block)
    rewriter.finish()


@dataclass
class _Rewriter:
    """Collects what to put before and after nodes, and puts it there at last."""

    graph: onnx.GraphProto
    ranges: Ranges
    before: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    after: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    rounded: dict[str, str] = field(default_factory=dict)

    def convert(self, block: _Block) -> None:
        """Convert one convolution and its activation."""
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
        """Put everything in its place, and drop the weights that are not used any more."""
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
        kept = [one for one in self.graph.initializer if one.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _round_result(self, node: onnx.NodeProto) -> None:
        """Round a node's result, which keeps its name for those who take it."""
        name = node.output[0]
        node.output[0] = f"{name}.raw"
        self.after[node.name] = self._rounding(f"{name}.raw", name, name)
        self.rounded[name] = name

    def _rounding(self, source: str, key: str, target: str) -> list[onnx.NodeProto]:
        scale, zero = self._scale(key)
        facts = [self._store(f"{key}.scale", scale), self._store(f"{key}.zero", zero)]
        return [
            helper.make_node("QuantizeLinear", [source, *facts], [f"{key}.byte"]),
            helper.make_node("DequantizeLinear", [f"{key}.byte", *facts], [target]),
        ]

    def _scale(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Scale, and the byte that stands for zero, which is always in the range."""
        low, high = self.ranges[name]
        scale = np.float32(max(high - low, 1e-6) / _LEVELS)
        return np.array(scale), np.array(np.clip(round(-low / scale), 0, _LEVELS), np.uint8)

    def _weights(
        self, weight: str, bias: str, scale: np.ndarray, before: list[onnx.NodeProto]
    ) -> tuple[str, str]:
        values, offsets = self._constant(weight), self._constant(bias)
        scales = np.maximum(np.abs(values).max((1, 2, 3)) / _WEIGHTS, 1e-9).astype(np.float32)
        whole = np.round(values / scales[:, None, None, None]).astype(np.int8)
        joint = (scale * scales).astype(np.float32)
        for name, numbers, steps in (
            (weight, whole, scales),
            (bias, np.round(offsets / joint).astype(np.int32), joint),
        ):
            facts = [
                self._store(f"{name}.whole", numbers),
                self._store(f"{name}.scale", steps),
                self._store(f"{name}.zero", np.zeros(len(steps), numbers.dtype)),
            ]
            before.append(helper.make_node("DequantizeLinear", facts, [f"{name}.wide"], axis=0))
        return f"{weight}.wide", f"{bias}.wide"

    def _constant(self, name: str) -> np.ndarray:
        found = {one.name: one for one in self.graph.initializer}
        stored = found.get(f"{name}{_HALF}") or found[name]
        return numpy_helper.to_array(stored).astype(np.float32)

    def _store(self, name: str, values: np.ndarray) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name


def _distance(model: Path, twin: Path, samples: Sequence[Sample]) -> float:
    """Root mean square difference of two models' results."""
    one, other = (start(path, SessionPlan(CPU)) for path in (model, twin))
    squares = []
    for sample in samples:
        feeds = {"tile": sample.tile, "prior": sample.prior}
        first, second = (session.run(["restored"], feeds)[0] for session in (one, other))
        squares.append(np.square(np.asarray(first, np.float64) - second).mean())
    return float(np.sqrt(np.mean(squares)))
