"""What the parts of VarFormer-S are worth: trained weights measured with one part at a time undone.

Nothing is trained again, so a figure says what the trained network relies on, not how well it would
have learned without the part. The networks know nothing of this: a copy is changed from outside.
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
from varfix.engine.restoration.prior_maps import sample_prior, thumbnail
from varfix.engine.restoration.restore_image import restore_image
from varfix.engine.restoration.restorer import RestoredTiles, Restorer
from varfix.engine.settings.types import Settings
from varfix.engine.train.initial_weights import load_initial
from varfix.engine.train.torch_restorer import STRIDE, TorchRestorer

Floats = npt.NDArray[np.float32]


class Even(nn.Module):
    """The same weights everywhere: the average of what a head would have chosen."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, N, H, W) that do not depend on the place."""
        chosen: Tensor = self.head(x)
        return chosen.mean((2, 3), keepdim=True).expand_as(chosen)


class Indifferent(nn.Module):
    """Equal weights for everything, whatever the image."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, maps, H, W) of zero."""
        return x.new_zeros(x.shape[0], self.maps, *x.shape[2:])


@dataclass
class Muted(TorchRestorer):
    """A restorer that does not hear some of the prior's maps.

    Attributes:
        silent: which of the network's parts (S, tone grid, evidence) are zero.
    """

    silent: tuple[int, ...] = ()

    def prior(self, thumbnail: Floats, task: str) -> Floats | None:
        """The maps, some of them zero."""
        maps = super().prior(thumbnail, task)
        assert maps is not None
        edges = np.cumsum([0, *self.network.restorer.parts])
        for part in self.silent:
            maps[edges[part] : edges[part + 1]] = 0.0
        return maps


@dataclass
class Nearsighted(TorchRestorer):
    """A restorer whose prior sees each tile alone, as the papers' models do."""

    task: str = field(default="auto", init=False)

    def prior(self, thumbnail: Floats, task: str) -> Floats | None:
        """Maps that nobody reads; remembers the task."""
        self.task = task
        return np.zeros((1, 16, 16), np.float32)

    def restore(self, tiles: Floats, prior: Floats | None) -> RestoredTiles:
        """Restore tiles, each with the prior of its own thumbnail."""
        pieces = [self._piece(tile) for tile in tiles]
        return super().restore(tiles, np.stack(pieces))

    def _piece(self, tile: Floats) -> Floats:
        maps = super().prior(thumbnail(tile, self.card.thumbnail), self.task)
        assert maps is not None
        sides = (tile.shape[0], tile.shape[1])
        return sample_prior(maps, sides, (0, 0), sides, STRIDE)


def without_choices(network: VarformerS) -> None:
    """DAE without its decisions: scales even (eq. 3), region weights alike everywhere (eq. 4)."""
    for module in list(network.modules()):
        if isinstance(module, DegradationAwareEnhancement):
            scales = _outputs(module.scale_weights)
            module.scale_weights = Indifferent(scales)  # type: ignore[assignment]
            module.region_weights = Even(module.region_weights)  # type: ignore[assignment]


def without_attention(network: VarformerS) -> None:
    """AFT adds nothing to what DAE gives it (eq. 5)."""
    for module in network.modules():
        if isinstance(module, PriorFusion):
            for parameter in module.transform.project.parameters():
                parameter.data.zero_()


def without_mixing(network: VarformerS) -> None:
    """Skips take half of each side (eq. 6)."""
    for module in network.modules():
        if isinstance(module, MixUpSkip):
            module.theta.data.zero_()


class StepByStep(nn.Module):
    """Predicts scale after scale, each from those that it predicted before, as the papers do.

    The transformer takes all scales at once, whatever comes after a scale is masked: so it is run
    once for each of them.
    """

    def __init__(self, prior: PriorNetwork) -> None:
        super().__init__()
        self.transformer = prior.transformer
        self.quantize = prior.vqvae.quantize

    def forward(self, pyramid: Tensor, memory: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """As `NextScaleTransformer.forward`; the degraded `pyramid` counts by its shape alone."""
        own = list(split_scales(torch.zeros_like(pyramid), SCALES[1:]))
        latent: Tensor | None = None
        for scale in range(len(SCALES) - 1):
            _, logits = self.transformer(torch.cat(own, 1), memory, task)
            codes = split_scales(logits)[scale].softmax(-1) @ self.quantize.embedding.weight
            increment = self.quantize.increment(codes, scale)
            latent = increment if latent is None else latent + increment
            own[scale] = flatten(self.quantize.pool(latent, scale + 1))
        features, logits = self.transformer(torch.cat(own, 1), memory, task)
        return features, logits


def in_ten_steps(network: VarformerS) -> None:
    """The ten-step loop instead of one pass that is forced on the degraded image's scales."""
    network.prior.transformer = StepByStep(network.prior)  # type: ignore[assignment]


def untouched(network: VarformerS) -> None:
    """Change nothing."""


@dataclass(frozen=True)
class Variation:
    """A part undone.

    Attributes:
        name: what people read.
        change: changes a copy of the network.
        build: puts the copy behind the restorer's port.
    """

    name: str
    change: Callable[[VarformerS], None] = untouched
    build: Callable[[VarformerS], Restorer] = TorchRestorer


VARIATIONS: tuple[Variation, ...] = (
    Variation("as trained"),
    Variation("no prior (S is zero)", build=lambda network: Muted(network, silent=(0,))),
    Variation("no tone grid", build=lambda network: Muted(network, silent=(1,))),
    Variation("no evidence", build=lambda network: Muted(network, silent=(2,))),
    Variation("prior without DAE's choices", without_choices),
    Variation("without AFT", without_attention),
    Variation("without the skip mix", without_mixing),
    Variation("ten steps instead of one", in_ten_steps),
    Variation("prior of each tile instead of the image", build=Nearsighted),
)


@dataclass(frozen=True)
class Ablation:
    """The rows that a variation measures."""

    name: str
    rows: tuple[BenchmarkResult, ...]


def run_ablations(
    weights: Path,
    folder: Path,
    choice: BenchmarkFilter,
    variations: Sequence[Variation] = VARIATIONS,
) -> Iterator[Ablation]:
    """Measure every variation on the test sets under a folder.

    Args:
        weights: `weights.safetensors` of a run, or an exported `NAME.onnx`.
        folder: as for `varfix.engine.evaluation.test_sets.run_benchmarks`.
        choice: which sets, and how much of them.
        variations: what to undo.

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
    """Restoration of whole images under a given task."""

    def restore(pixels: Floats, task: str) -> Floats:
        settings = Settings()
        model = msgspec.structs.replace(settings.model, task=task)
        return restore_image(restorer, pixels, msgspec.structs.replace(settings, model=model))

    return restore


def table(ablations: Sequence[Ablation]) -> str:
    """The table in Markdown: PSNR under `auto`, and under the task's preset behind a slash."""
    sets = [row.set for row in ablations[0].rows]
    lines = [f"| | {' | '.join(sets)} |", f"|{'---|' * (len(sets) + 1)}"]
    for one in ablations:
        cells = [_cell(row) for row in one.rows]
        lines.append(f"| {one.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: BenchmarkResult) -> str:
    told = "" if row.preset is None else f" / {row.preset.psnr:.2f}"
    return f"{row.auto.psnr:.2f}{told}"


def _outputs(head: nn.Module) -> int:
    """How many maps a head gives: the channels of its last convolution."""
    last = [module for module in head.modules() if isinstance(module, nn.Conv2d)][-1]
    return last.out_channels
