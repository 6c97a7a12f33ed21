"""A network in PyTorch as a `Restorer`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from varfix.engine.models.card import TASKS, ModelCard
from varfix.engine.networks.varformer_s.model import VarformerS
from varfix.engine.networks.varformer_s.unet import MULTIPLE
from varfix.engine.restoration.prior_input import PriorInput
from varfix.engine.restoration.restorer import DeviceUsed, RestoredTiles

Floats = npt.NDArray[np.float32]

STRIDE = 16
CARD = ModelCard(
    name="varformer-s",
    licence="Apache-2.0",
    tile=512,
    multiple=MULTIPLE,
    overlap=32,
    tasks=TASKS,
    guidance="image",
    thumbnail=256,
    prior_channels=1,  # not used
    prior_stride=STRIDE,
)


@dataclass
class TorchRestorer:
    """Restores tiles with a VarFormer-S on the device of its weights."""

    network: VarformerS
    card: ModelCard = CARD
    tile: int = CARD.tile
    tile_step: int = CARD.multiple
    batch: int = 1
    findings: None = None

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.network.parameters()).device

    @property
    def used(self) -> DeviceUsed:
        """The device as a record."""
        return DeviceUsed("auto", str(self.device), "PyTorch", "fp32")

    def prior(self, prior_input: PriorInput) -> Floats | None:
        """Return the maps (C, 16, 16) of an image, whose thumbnail is (256, 256, 3)."""
        image = self._planes(prior_input.thumbnail[None])
        task = torch.tensor([TASKS.index(prior_input.task)], device=self.device)
        crops = probabilities = None
        if prior_input.crops is not None:
            crops = self._planes(prior_input.crops)[None]
        if prior_input.probabilities is not None:
            probabilities = torch.as_tensor(prior_input.probabilities, device=self.device)[None]
        with torch.no_grad():
            maps = self.network.prior(image, task, crops, probabilities).maps
        return _array(maps[0])

    def restore(self, tiles: Floats, prior: Floats | None) -> RestoredTiles:
        """Restore tiles (N, H, W, 3) in [0, 1], given their maps (N, C, H / 16, W / 16)."""
        assert prior is not None  # guaranteed by the card
        with torch.no_grad():
            restored, _ = self.network.restorer(
                self._planes(tiles), torch.from_numpy(prior).to(self.device)
            )
        return RestoredTiles(_array(restored.clamp(0.0, 1.0).permute(0, 2, 3, 1)))

    def _planes(self, images: Floats) -> Tensor:
        planes = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        return planes.to(self.device, memory_format=torch.channels_last)


def _array(values: Tensor) -> Floats:
    return np.ascontiguousarray(values.float().cpu().numpy())
