"""The models with a name in varfix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Release:
    """A published checkpoint that is converted to a model.

    Attributes:
        architecture: Name of the network, for the export.
        urls: Addresses of the files, in the order of the export.
        licence: SPDX expression for the card.
        terms: Name of the license text in the package data.
        depth: Required number of transformer blocks; None for any.
    """

    architecture: str
    urls: tuple[str, ...]
    licence: str
    terms: str
    depth: int | None = None


@dataclass(frozen=True)
class ModelEntry:
    """A model with a name.

    Attributes:
        name: Value for `--model`.
        files: Names of its graph files, the restore graph first; in the package data, or in the
            user's model folder for a model that is not shipped.
        summary: One line for `varfix models`.
        release: Origin of a model that is not shipped.
    """

    name: str
    files: tuple[str, ...]
    summary: str
    release: Release | None = None


MODELS: Final[dict[str, ModelEntry]] = {
    "varformer-s": ModelEntry(
        name="varformer-s",
        files=(
            "varformer-s.onnx",
            "varformer-s.prior.onnx",
            "varformer-s.denoise.onnx",
            "varformer-s.derain.onnx",
        ),
        summary="noise, rain, haze, low light, blur, snow; small, runs on a CPU; ships with varfix",
    ),
    "varformer-d16": ModelEntry(
        name="varformer-d16",
        files=("varformer-d16.onnx",),
        summary="VarFormer as published (908 M parameters): tiles of 256; varfix models pull",
        release=Release(
            architecture="varformer",
            urls=("https://huggingface.co/wsy541/VarFormer/resolve/main/net_g_last.pth",),
            licence="LicenseRef-unstated",
            terms="varformer-d16.license.md",
            depth=16,
        ),
    ),
}
