"""Export published networks in fp32 and fp16, and compare both files with the network.

A protobuf message cannot be larger than 2 GB, so the weights are in a separate file next to the
graph (`NAME.onnx.data`), from which the runtime maps them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from varfix.engine.errors import ModelContractError
from varfix.engine.evaluation.metrics import psnr
from varfix.engine.models.card import ModelCard
from varfix.onnx.export.fp16 import convert_to_fp16
from varfix.onnx.export.natural_images import natural_pixels
from varfix.onnx.export.parity import Arrays, compare
from varfix.onnx.export.released_graphs import RESTORED, TOKENS
from varfix.onnx.export.trace import SMALL, TILE, trace_graph
from varfix.onnx.files.card import decoder_path, file_digest, fp16_path, weights_path, write_card
from varfix.onnx.inference.runtime import CPU, SessionPlan, start

EQUAL_TOKENS: Final = 0.99
"""Share of tokens that must equal the network's, given the same tokens before them.

Where two tokens are almost equally likely, another order of summation may prefer the other.
"""

FP16_TOKENS: Final = 0.995
FP16_PSNR: Final = 45.0
"""Limits from which fp16 is safe: 1 in 200 tokens differs, pixels by 1.4 of 255."""

Reference = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Restores a tile in [0, 1] with given tokens; also returns the tokens it predicts itself."""


@dataclass(frozen=True)
class Released:
    """A published network, ready to be exported.

    Attributes:
        card: The card, without digests and agreement.
        graph: Maps a tile (1, 3, T, T) in [0, 1] to named results, `restored` and `tokens` among
            them.
        results: Names of the results that the file returns, `restored` first.
        reference: The network itself.
        single: Matches in names of weights that stay in fp32 in the fp16 file.
        decoder: Maps a latent of the shape `latent` to `restored`, to show the prior.
        latent: Shape of the decoder's input.
    """

    card: ModelCard
    graph: nn.Module
    results: tuple[str, ...]
    reference: Reference
    single: re.Pattern[str]
    decoder: nn.Module | None = None
    latent: tuple[int, ...] = field(default=())


@dataclass(frozen=True)
class GraphOutputs:
    """Outputs of a file for the example."""

    restored: Arrays
    tokens: Arrays


@dataclass(frozen=True)
class Agreement:
    """How the outputs of two files compare."""

    tokens: float
    psnr: float

    @property
    def safe(self) -> bool:
        """Whether one file can replace the other."""
        return self.tokens >= FP16_TOKENS and self.psnr >= FP16_PSNR

    def __str__(self) -> str:
        return f"{self.tokens:.2%} of tokens equal, {self.psnr:.1f} dB"


def export_released(released: Released, target: Path) -> ModelCard:
    """Write the files of a network and compare them with it.

    Args:
        released: The network.
        target: The restore graph, `NAME.onnx`; the other files are written next to it.

    Returns:
        The card as written.

    Raises:
        ModelContractError: A file does not compute the network's results; no file is left then.
    """
    graphs = (target, fp16_path(target), decoder_path(target))
    try:
        return _exported(released, target)
    except BaseException:
        for path in graphs:
            path.unlink(missing_ok=True)
            weights_path(path).unlink(missing_ok=True)
        raise


def _exported(released: Released, target: Path) -> ModelCard:
    card, side = released.card, released.card.tile
    example = natural_image(side)
    model = trace_graph(released.graph, example, released.results)
    _save(model, target, card)
    single = _run(target, example)
    _check(released, example, single, target.name)
    fp16_file = fp16_path(target)
    convert_to_fp16(model, released.single)
    _save(model, fp16_file, card)
    agreement = compared(_run(fp16_file, example), single)
    fp16 = "ok" if agreement.safe else "unsafe"
    card = msgspec.structs.replace(card, agreement=str(agreement), fp16=fp16)
    _describe(fp16_file, card)
    if released.decoder is not None:
        decoder = trace_graph(released.decoder, torch.zeros(released.latent), (RESTORED,))
        _save(decoder, decoder_path(target), card)
    return _describe(target, card)


def _save(model: ir.Model, path: Path, card: ModelCard) -> None:
    """Write a graph and, next to it, its weights."""
    weights = weights_path(path)
    ir.save(model, path, external_data=weights.name, size_threshold_bytes=4 * SMALL)
    _describe(path, card)


def _describe(path: Path, card: ModelCard) -> ModelCard:
    weights = weights_path(path)
    digest = file_digest(weights) if weights.is_file() else ""
    return write_card(path, msgspec.structs.replace(card, weights=digest))


def natural_image(side: int, seed: int = 0) -> Tensor:
    """Return `natural_pixels`, an image (1, 3, side, side) in [0, 1], as a tensor."""
    return torch.from_numpy(natural_pixels(side, seed))


def _run(path: Path, example: Tensor) -> GraphOutputs:
    """Run a file in a session that is closed afterwards."""
    session = start(path, SessionPlan(CPU))
    restored, tokens = session.run([RESTORED, TOKENS], {TILE: example.numpy()})
    return GraphOutputs(restored, tokens)


@torch.no_grad()
def _check(released: Released, example: Tensor, seen: GraphOutputs, name: str) -> None:
    """Reject a file that does not compute the network's results.

    The network continues from the file's tokens; otherwise a single doubtful token would change all
    later tokens, and the image.
    """
    restored, tokens = released.reference(example, torch.from_numpy(seen.tokens))
    parity = compare(seen.restored, restored.numpy())
    if not parity.ok:
        raise ModelContractError(f"{name}: {parity}, compared with the network")
    equal = float((seen.tokens == tokens.numpy()).mean())
    if equal < EQUAL_TOKENS:
        raise ModelContractError(f"{name}: only {equal:.1%} of the tokens equal the network's")


def compared(seen: GraphOutputs, wanted: GraphOutputs) -> Agreement:
    """Return how the outputs of a file compare with those of another file."""
    equal = float((seen.tokens == wanted.tokens).mean())
    if not np.isfinite(seen.restored).all():
        return Agreement(equal, 0.0)
    return Agreement(equal, min(99.0, psnr(seen.restored, wanted.restored)))
