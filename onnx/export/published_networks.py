"""Recognizes checkpoints of published restoration networks, with spandrel.

Nothing in a checkpoint is executed: only tensors are read, and spandrel gets the tensors. It
recognizes the network by their names and shapes, and builds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from varfix.engine.errors import ModelContractError
from varfix.engine.networks.checkpoints.key_maps import RESTOREVAR_ENTRY, VARFORMER_ENTRY
from varfix.engine.networks.checkpoints.load import FOREIGN, abbreviate
from varfix.onnx.export.companions import EXTRA, Spandrel

LEVEL_DEFAULT: Final = 15.0
"""Noise level of spandrel's descriptors, in units of 1/255."""

LICENSES: Final = {
    "DRUNet": "MIT",
    "DnCNN": "MIT",
    "FBCNN": "Apache-2.0",
    "MIRNet2": "LicenseRef-Academic-Public-License",
    "MPRNet": "LicenseRef-Academic-Public-License",
    "NAFNet": "MIT",
    "Restormer": "LicenseRef-Academic-Public-License",
    "RetinexFormer": "MIT",
    "SCUNet": "Apache-2.0",
    "SwinIR": "Apache-2.0",
}
"""License of each network's code."""

PERMISSIVE: Final = "LicenseRef-permissive"
NONCOMMERCIAL: Final = "LicenseRef-noncommercial"
"""The licenses that spandrel states for the other networks of its two packages."""

FP16_BREAKS: Final = frozenset({"DRUNet", "SCUNet"})
"""Networks whose values exceed the range of fp16."""

OWN: Final = {VARFORMER_ENTRY: "varformer", "prior.vqvae.encoder.conv_in.weight": "varformer-s"}
"""Entries of the networks that varfix exports itself, and their architectures."""

_PURPOSES: Final = {
    "SR": "enlarges images",
    "FaceSR": "restores portraits of faces only",
    "Inpainting": "fills holes in images",
}
_LUMA: Final = (0.299, 0.587, 0.114)
_HINT: Final = "varfix takes networks that restore RGB or gray images without changing their size"

Call = Callable[[nn.Module, Tensor], Tensor]


class PublishedGraph(nn.Module):
    """A published network with the inputs and outputs of the model contract (engine/README.md).

    A gray network restores the brightness (BT.601); colors are kept.
    """

    def __init__(self, network: nn.Module, call: Call, gray: bool, leveled: bool) -> None:
        super().__init__()
        self.network = network
        self._call, self._gray, self._leveled = call, gray, leveled

    def forward(self, tile: Tensor, level: Tensor | None = None) -> Tensor:
        """Restore tiles.

        Args:
            tile: (N, 3, H, W) in [0, 1].
            level: (1,), the noise level in units of 1/255, for networks with such an input.

        Returns:
            (N, 3, H, W), not clipped.
        """
        if not self._gray:
            return self._restored(tile, level)
        weights = torch.tensor(_LUMA, dtype=tile.dtype).reshape(1, 3, 1, 1)
        luma = (tile * weights).sum(1, keepdim=True)
        return tile + (self._restored(luma, level) - luma)

    def _restored(self, image: Tensor, level: Tensor | None) -> Tensor:
        if not self._leveled:
            return self._call(self.network, image)
        # The descriptors' own calls add a fixed level to a batch of one.
        given = torch.full((1,), LEVEL_DEFAULT) if level is None else level
        plane = torch.zeros_like(image[:, :1]) + given / 255.0
        restored: Tensor = self.network(torch.cat([image, plane], 1))
        return restored


@dataclass(frozen=True)
class PublishedNetwork:
    """A recognized network.

    Attributes:
        name: Its name in spandrel.
        graph: The network behind the model contract.
        descriptor: spandrel's descriptor, the reference.
        gray: Whether it restores gray images.
        leveled: Whether it has an input for a noise level.
        multiple: Edges of its input must be divisible by it.
        smallest: Least edge of its input, in pixels.
        noncommercial: Whether its license forbids commercial use.
    """

    name: str
    graph: PublishedGraph
    descriptor: Any
    gray: bool
    leveled: bool
    multiple: int
    smallest: int
    noncommercial: bool

    @property
    def license(self) -> str:
        """SPDX expression of the network's code."""
        return LICENSES.get(self.name, NONCOMMERCIAL if self.noncommercial else PERMISSIVE)


def own_architecture(state: Mapping[str, Tensor]) -> str:
    """Return the architecture of a checkpoint that varfix exports itself; empty if unknown."""
    if RESTOREVAR_ENTRY in state:
        raise ModelContractError(
            "a RestoreVAR needs both of its files",
            hint="run: varfix models import NAME restorevar.pth vae_restorevar.ckpt",
        )
    return next((name for entry, name in OWN.items() if entry in state), "")


def recognize(path: Path, state: Mapping[str, Tensor], library: Spandrel) -> PublishedNetwork:
    """Return the network that a checkpoint belongs to.

    Args:
        path: The file, for messages.
        state: Its tensors.
        library: The networks that are known.

    Raises:
        ModelContractError: The network is unknown, incomplete, or not a restorer of images.
    """
    descriptor = _descriptor(path, state, library)
    name = str(descriptor.architecture.id)
    _require_restorer(path, name, descriptor)
    needs = descriptor.size_requirements
    gray = descriptor.input_channels == 1
    leveled = name == "DRUNet" or "FDnCNN" in descriptor.tags
    network = descriptor.model.eval()
    return PublishedNetwork(
        name=name,
        graph=PublishedGraph(network, descriptor._call_fn, gray, leveled).eval(),
        descriptor=descriptor,
        gray=gray,
        leveled=leveled,
        multiple=needs.multiple_of,
        smallest=max(needs.minimum, needs.multiple_of),
        noncommercial=name in library.extra,
    )


def _descriptor(path: Path, state: Mapping[str, Tensor], library: Spandrel) -> Any:
    from spandrel import ModelLoader, UnsupportedModelError

    try:
        return ModelLoader(registry=library.registry).load_from_state_dict(dict(state))
    except UnsupportedModelError as error:
        raise ModelContractError(
            f"{path.name}: the network is unknown ({_resemblance(state)})",
            hint=_HINT if library.extra else f"{_HINT}; for more networks, {EXTRA}",
        ) from error
    except Exception as error:  # the names match, the shapes do not; any exception is possible
        text = " ".join(str(error).split())[:200]
        raise ModelContractError(
            f"{path.name}: the weights do not fit the network that they resemble ({text})",
            hint="download the file again; a variant of a published network cannot be imported",
        ) from error


def _resemblance(state: Mapping[str, Tensor]) -> str:
    guesses = (kind for prefix, kind in FOREIGN.items() for name in state if prefix in name)
    guess = next(guesses, None)
    return f"it looks like {guess}" if guess else f"it has {abbreviate(list(state))}"


def _require_restorer(path: Path, name: str, descriptor: Any) -> None:
    """Reject networks that enlarge, fill holes, or take other images than RGB or gray."""
    why = _PURPOSES.get(descriptor.purpose, "")
    if descriptor.scale != 1:
        why = f"enlarges images {descriptor.scale} times"
    channels = descriptor.input_channels, descriptor.output_channels
    if not why and channels not in ((1, 1), (3, 3)):
        why = f"maps {channels[0]} channels to {channels[1]}"
    if why:
        raise ModelContractError(f"{path.name}: {name} {why}", hint=_HINT)
