"""Measures the contribution of each part of VarFormer-S by disabling one part at a time.

Nothing is trained again: a figure tells how much the trained network depends on a part, not how
well the network could do without it. The networks contain no code for this; copies are changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from varfix.engine.evaluation.test_sets import (
    BenchmarkFilter,
    BenchmarkResult,
    RestoreAs,
    run_benchmarks,
)
from varfix.engine.networks.layers.quantizer import SCALES, flatten, split_scales
from varfix.engine.networks.varformer_s.fusion import (
    DegradationAwareEnhancement,
    MixUpSkip,
    PriorFusion,
)
from varfix.engine.networks.varformer_s.model import VarformerS, build_varformer_s
from varfix.engine.networks.varformer_s.prior import PriorNetwork
from varfix.engine.restoration.prior_input import PriorInput, thumbnail
from varfix.engine.restoration.prior_maps import sample_prior
from varfix.engine.restoration.restore_image import restore_image
from varfix.engine.restoration.restorer import RestoredTiles, Restorer
from varfix.engine.settings.types import Settings
from varfix.engine.train.initial_weights import load_initial
from varfix.engine.train.torch_restorer import STRIDE, TorchRestorer

Floats = npt.NDArray[np.float32]


class SpatialMean(nn.Module):
    """The mean over all positions of the weights that a head predicts."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, N, H, W) that are equal at all positions."""
        chosen: Tensor = self.head(x)
        return chosen.mean((2, 3), keepdim=True).expand_as(chosen)


class EqualWeights(nn.Module):
    """Equal weights for every image."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, maps, H, W) of zero."""
        return x.new_zeros(x.shape[0], self.maps, *x.shape[2:])


@dataclass
class ZeroedPrior(TorchRestorer):
    """A restorer for which parts of the prior are zero.

    Attributes:
        zeroed: Indices of the parts: S, tone grid, degradation scores.
    """

    zeroed: tuple[int, ...] = ()

    def prior(self, prior_input: PriorInput) -> Floats | None:
        """Return the maps with some parts set to zero."""
        maps = super().prior(prior_input)
        assert maps is not None
        edges = np.cumsum([0, *self.network.restorer.parts])
        for part in self.zeroed:
            maps[edges[part] : edges[part + 1]] = 0.0
        return maps


@dataclass
class TilePrior(TorchRestorer):
    """A restorer with a separate prior for each tile, as in the papers."""

    task: str = field(default="auto", init=False)

    def prior(self, prior_input: PriorInput) -> Floats | None:
        """Remember the task; return maps that are not used."""
        self.task = prior_input.task
        return np.zeros((1, 16, 16), np.float32)

    def restore(self, tiles: Floats, prior: Floats | None) -> RestoredTiles:
        """Restore tiles, each with the prior of its own thumbnail."""
        pieces = [self._piece(tile) for tile in tiles]
        return super().restore(tiles, np.stack(pieces))

    def _piece(self, tile: Floats) -> Floats:
        maps = super().prior(PriorInput(thumbnail(tile, self.card.thumbnail), self.task))
        assert maps is not None
        sides = (tile.shape[0], tile.shape[1])
        return sample_prior(maps, sides, (0, 0), sides, STRIDE)


def without_dae_weights(network: VarformerS) -> None:
    """Replace the weights of DAE: equal scales (eq. 3), one weight for all positions (eq. 4)."""
    for module in list(network.modules()):
        if isinstance(module, DegradationAwareEnhancement):
            scales = _outputs(module.scale_weights)
            module.scale_weights = EqualWeights(scales)  # type: ignore[assignment]
            module.region_weights = SpatialMean(module.region_weights)  # type: ignore[assignment]


def without_attention(network: VarformerS) -> None:
    """Disable AFT: it adds nothing to the result of DAE (eq. 5)."""
    for module in network.modules():
        if isinstance(module, PriorFusion):
            for parameter in module.transform.project.parameters():
                parameter.data.zero_()


def without_skip_weights(network: VarformerS) -> None:
    """Replace the weights of the skips by one half (eq. 6)."""
    for module in network.modules():
        if isinstance(module, MixUpSkip):
            module.theta.data.zero_()


class SequentialTransformer(nn.Module):
    """Predicts the scales in sequence, each from the predicted coarser ones, as in the papers.

    The transformer processes all scales at once under a mask, so it runs once per scale.
    """

    def __init__(self, prior: PriorNetwork) -> None:
        super().__init__()
        self.transformer = prior.transformer
        self.quantize = prior.vqvae.quantize

    def forward(self, pyramid: Tensor, memory: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """See `NextScaleTransformer.forward`; only the shape of the degraded `pyramid` is used."""
        predicted = list(split_scales(torch.zeros_like(pyramid), SCALES[1:]))
        latent: Tensor | None = None
        for scale in range(len(SCALES) - 1):
            _, logits = self.transformer(torch.cat(predicted, 1), memory, task)
            codes = split_scales(logits)[scale].softmax(-1) @ self.quantize.embedding.weight
            increment = self.quantize.increment(codes, scale)
            latent = increment if latent is None else latent + increment
            predicted[scale] = flatten(self.quantize.pool(latent, scale + 1))
        features, logits = self.transformer(torch.cat(predicted, 1), memory, task)
        return features, logits


def with_sequential_scales(network: VarformerS) -> None:
    """Predict the scales in sequence instead of in one teacher-forced pass."""
    network.prior.transformer = SequentialTransformer(network.prior)  # type: ignore[assignment]


def unchanged(network: VarformerS) -> None:
    """Change nothing."""


@dataclass(frozen=True)
class Variation:
    """A network with one part disabled.

    Attributes:
        name: Name in the table.
        change: Changes a copy of the network.
        build: Creates the restorer of the copy.
    """

    name: str
    change: Callable[[VarformerS], None] = unchanged
    build: Callable[[VarformerS], Restorer] = TorchRestorer


VARIATIONS: tuple[Variation, ...] = (
    Variation("as trained"),
    Variation("no prior (S is zero)", build=lambda network: ZeroedPrior(network, zeroed=(0,))),
    Variation("no tone grid", build=lambda network: ZeroedPrior(network, zeroed=(1,))),
    Variation("no degradation scores", build=lambda network: ZeroedPrior(network, zeroed=(2,))),
    Variation("uniform weights in DAE", without_dae_weights),
    Variation("no AFT", without_attention),
    Variation("equal weights of the skips", without_skip_weights),
    Variation("ten passes instead of one", with_sequential_scales),
    Variation("prior of each tile instead of the image", build=TilePrior),
)


@dataclass(frozen=True)
class Ablation:
    """Results of a variation, a row for each test set."""

    name: str
    rows: tuple[BenchmarkResult, ...]


def run_ablations(
    weights: Path,
    folder: Path,
    choice: BenchmarkFilter,
    variations: Sequence[Variation] = VARIATIONS,
) -> Iterator[Ablation]:
    """Measure every variation on the test sets in a folder.

    Args:
        weights: `weights.safetensors` of a run, or an exported `NAME.onnx`.
        folder: As for `varfix.engine.evaluation.test_sets.run_benchmarks`.
        choice: Test sets, and number of images.
        variations: Variations to measure.

    Raises:
        ModelError: The weights are not those of a VarFormer-S.
        ConfigError, NothingToDoError, ItemError: As `run_benchmarks`.
    """
    network = build_varformer_s().eval()
    load_initial(network, weights)
    for variation in variations:
        changed = copy.deepcopy(network)
        variation.change(changed)
        restore = restore_with(variation.build(changed))
        limit = Settings().limits.max_pixels
        yield Ablation(variation.name, tuple(run_benchmarks(folder, restore, choice, limit)))


def restore_with(restorer: Restorer) -> RestoreAs:
    """Return the function that restores a whole image under a given task."""

    def restore(pixels: Floats, task: str) -> Floats:
        settings = Settings()
        model = msgspec.structs.replace(settings.model, task=task)
        return restore_image(restorer, pixels, msgspec.structs.replace(settings, model=model))

    return restore


def table(ablations: Sequence[Ablation]) -> str:
    """Return a Markdown table of PSNR under `auto`, and after a slash under the task's preset."""
    sets = [row.set for row in ablations[0].rows]
    lines = [f"| | {' | '.join(sets)} |", f"|{'---|' * (len(sets) + 1)}"]
    for ablation in ablations:
        cells = [_cell(row) for row in ablation.rows]
        lines.append(f"| {ablation.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: BenchmarkResult) -> str:
    with_task = "" if row.preset is None else f" / {row.preset.psnr:.2f}"
    return f"{row.auto.psnr:.2f}{with_task}"


def _outputs(head: nn.Module) -> int:
    """Return the number of maps that a head predicts."""
    last = [module for module in head.modules() if isinstance(module, nn.Conv2d)][-1]
    return last.out_channels
