"""Released networks to model files: single and half precision, each held against the network.

A file of more than 2 GB cannot be one protobuf message, so the weights lie in a file of their own
beside the graph (`NAME.onnx.data`), from which the runtime maps them.
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
from varfix.onnx.export.fp16 import halve
from varfix.onnx.export.parity import Arrays, compare
from varfix.onnx.export.released_graphs import RESTORED, TOKENS
from varfix.onnx.export.trace import SMALL, TILE, traced
from varfix.onnx.files.card import decoder_path, file_digest, half_path, weights_path, write_card
from varfix.onnx.inference.runtime import CPU, SessionPlan, start

EQUAL_TOKENS: Final = 0.99
"""Share of tokens that must be the network's own choice, given the same ones before them.

Where two are almost equally likely, another order of summation may prefer the other one.
"""

HALF_TOKENS: Final = 0.995
HALF_PSNR: Final = 45.0
"""From here on half precision counts as safe: fewer than 1 in 200 tokens differ, 1.4 of 255."""

Reference = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Restores a tile in [0, 1] with given tokens; also returns the tokens it would have chosen."""


@dataclass(frozen=True)
class Released:
    """A released network, ready to become files.

    Attributes:
        card: what the files' cards say, but for digests and agreement.
        graph: maps a tile (1, 3, T, T) in [0, 1] to named results, `restored` and `tokens` among
            them.
        results: the names of those that the file returns, `restored` first.
        reference: the network itself.
        single: matches in names of weights that stay in single precision in the half file.
        decoder: maps a latent of the shape `latent` to `restored`, for images of the prior.
        latent: shape of what the decoder takes.
    """

    card: ModelCard
    graph: nn.Module
    results: tuple[str, ...]
    reference: Reference
    single: re.Pattern[str]
    decoder: nn.Module | None = None
    latent: tuple[int, ...] = field(default=())


@dataclass(frozen=True)
class Seen:
    """What a file made of the example."""

    restored: Arrays
    tokens: Arrays


@dataclass(frozen=True)
class Agreement:
    """How a file's results compare with those of another one."""

    tokens: float
    psnr: float

    @property
    def safe(self) -> bool:
        """Whether one file can stand for the other."""
        return self.tokens >= HALF_TOKENS and self.psnr >= HALF_PSNR

    def __str__(self) -> str:
        return f"{self.tokens:.2%} of tokens equal, {self.psnr:.1f} dB"


def export_released(released: Released, target: Path) -> ModelCard:
    """Write a network's files and check them.

    Args:
        released: the network.
        target: the restore graph, `NAME.onnx`; the others, with names of their own, beside it.

    Returns:
        The card as written.

    Raises:
        ModelContractError: A file does not compute what the network computes; none is left then.
    """
    graphs = (target, half_path(target), decoder_path(target))
    try:
        return _exported(released, target)
    except BaseException:
        for path in graphs:
            path.unlink(missing_ok=True)
            weights_path(path).unlink(missing_ok=True)
        raise


def _exported(released: Released, target: Path) -> ModelCard:
    card, side = released.card, released.card.tile
    example = natural(side)
    model = traced(released.graph, example, released.results)
    _save(model, target, card)
    single = _run(target, example)
    _check(released, example, single, target.name)
    half = half_path(target)
    halve(model, released.single)
    _save(model, half, card)
    agreement = compared(_run(half, example), single)
    fp16 = "ok" if agreement.safe else "unsafe"
    card = msgspec.structs.replace(card, agreement=str(agreement), fp16=fp16)
    _describe(half, card)
    if released.decoder is not None:
        drawing = traced(released.decoder, torch.zeros(released.latent), (RESTORED,))
        _save(drawing, decoder_path(target), card)
    return _describe(target, card)


def _save(model: ir.Model, path: Path, card: ModelCard) -> None:
    """Write a graph and, beside it, its weights."""
    weights = weights_path(path)
    ir.save(model, path, external_data=weights.name, size_threshold_bytes=4 * SMALL)
    _describe(path, card)


def _describe(path: Path, card: ModelCard) -> ModelCard:
    weights = weights_path(path)
    digest = file_digest(weights) if weights.is_file() else ""
    return write_card(path, msgspec.structs.replace(card, weights=digest))


def natural(side: int, seed: int = 0) -> Tensor:
    """An image (1, 3, side, side) in [0, 1] whose detail fades with fineness, as in photographs.

    Networks that know natural images do not know what to make of noise.
    """
    rng = torch.Generator().manual_seed(seed)
    rows, columns = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None]
    fading = 1.0 / (rows.square() + columns.square()).sqrt().clamp_min(1.0 / side)
    waves = torch.fft.rfft2(torch.randn(1, 3, side, side, generator=rng)) * fading
    picture = torch.fft.irfft2(waves, s=(side, side))
    spread: Tensor = picture / (4.0 * picture.std()) + 0.5
    return spread.clamp(0.0, 1.0)


def _run(path: Path, example: Tensor) -> Seen:
    """Run a file, and let go of its memory."""
    session = start(path, SessionPlan(CPU))
    restored, tokens = session.run([RESTORED, TOKENS], {TILE: example.numpy()})
    return Seen(restored, tokens)


@torch.no_grad()
def _check(released: Released, example: Tensor, seen: Seen, name: str) -> None:
    """Refuse a file that is not the network.

    The network is given the file's tokens, or one doubtful token early on would change all later
    ones, and the image with them.
    """
    restored, tokens = released.reference(example, torch.from_numpy(seen.tokens))
    parity = compare(seen.restored, restored.numpy())
    if not parity.ok:
        raise ModelContractError(f"{name}: {parity}, measured against the network.")
    equal = float((seen.tokens == tokens.numpy()).mean())
    if equal < EQUAL_TOKENS:
        raise ModelContractError(f"{name}: only {equal:.1%} of its tokens are the network's.")


def compared(seen: Seen, wanted: Seen) -> Agreement:
    """How what a file made of the example compares with what another one did."""
    equal = float((seen.tokens == wanted.tokens).mean())
    if not np.isfinite(seen.restored).all():
        return Agreement(equal, 0.0)
    return Agreement(equal, min(99.0, psnr(seen.restored, wanted.restored)))
