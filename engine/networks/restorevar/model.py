"""RestoreVAR as released: VAR itself writes the restored image's tokens, at 512 x 512.

The VQ-VAE encodes the degraded image, the writer predicts the clean one's tokens, the refiner
makes their latent continuous, the fine-tuned decoder draws it. Source:
engine/networks/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from varfix.engine.networks.layers.next_scale import restore_one_by_one
from varfix.engine.networks.layers.probes import Probe, no_probe, prefixed
from varfix.engine.networks.layers.quantizer import FINE_SCALES
from varfix.engine.networks.layers.vqvae import Vqvae, VqvaeConfig
from varfix.engine.networks.restorevar.refiner import Refiner, RefinerConfig
from varfix.engine.networks.restorevar.transformer import (
    RestoreVarTransformer,
    RestoreVarTransformerConfig,
)


@dataclass(frozen=True)
class RestoreVarConfig:
    """Sizes of all parts; the defaults are the released network's."""

    vqvae: VqvaeConfig = field(default_factory=lambda: VqvaeConfig(scales=FINE_SCALES))
    writer: RestoreVarTransformerConfig = field(default_factory=RestoreVarTransformerConfig)
    refiner: RefinerConfig = field(default_factory=RefinerConfig)


class RestoreVar(nn.Module):
    """The whole network."""

    def __init__(self, vqvae: Vqvae, writer: RestoreVarTransformer, refiner: Refiner) -> None:
        super().__init__()
        self.vqvae, self.writer, self.refiner = vqvae, writer, refiner

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, 3, 512, 512) in [-1, 1] to [0, 1], see `restore_one_by_one`."""
        return restore_one_by_one(self.restore, image, self.vqvae.side)

    def restore(
        self, image: Tensor, probe: Probe = no_probe, tokens: Tensor | None = None
    ) -> Tensor:
        """Restore a batch together.

        Args:
            image: (B, 3, 512, 512) in [-1, 1].
            probe: receives intermediate results.
            tokens: (B, 2240) int64, the clean image's where they are known; see `generate`.

        Returns:
            (B, 3, 512, 512) in [0, 1].
        """
        latent = self.vqvae.encoder(image)
        probe("latent", latent)
        return self.decode(self.restored_latent(latent, probe, tokens))

    def restored_latent(
        self, latent: Tensor, probe: Probe = no_probe, tokens: Tensor | None = None
    ) -> Tensor:
        """The restored latent of a degraded one, both (B, latent, 32, 32); as `restore`."""
        written = self.writer(latent, self.vqvae.quantize, prefixed(probe, "writer/"), tokens)
        predicted = written.prediction
        probe("tokens", predicted.tokens)
        probe("logits", predicted.logits)
        probe("increments", predicted.increments)
        probe("quantized", predicted.latent)
        probe("states", written.states)
        refined: Tensor = self.refiner(
            predicted.latent, written.states, prefixed(probe, "refiner/")
        )
        probe("refined", refined)
        return refined

    def decode(self, latent: Tensor) -> Tensor:
        """The image (B, 3, 512, 512) in [0, 1] of a refined latent (B, latent, 32, 32)."""
        return (self.vqvae.decode(latent).clamp(-1.0, 1.0) + 1.0) / 2.0
