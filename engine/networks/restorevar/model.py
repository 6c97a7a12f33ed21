"""RestoreVAR as published: VAR generates the tokens of the restored image, at 512 x 512.

The VQ-VAE encodes the degraded image, the transformer predicts the tokens of the clean one, the
refiner makes their latent continuous, and the fine-tuned decoder decodes it. Source:
engine/networks/README.md. The attribute `writer` is the transformer; it is part of the keys of
checkpoints.
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
    """Sizes of all parts; the defaults are the published network's."""

    vqvae: VqvaeConfig = field(default_factory=lambda: VqvaeConfig(scales=FINE_SCALES))
    writer: RestoreVarTransformerConfig = field(default_factory=RestoreVarTransformerConfig)
    refiner: RefinerConfig = field(default_factory=RefinerConfig)


class RestoreVar(nn.Module):
    """RestoreVAR: VQ-VAE, transformer and refiner."""

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
            probe: Receives intermediate results.
            tokens: (B, 2240) int64 of the clean image, for teacher forcing; see `generate`.

        Returns:
            (B, 3, 512, 512) in [0, 1].
        """
        latent = self.vqvae.encoder(image)
        probe("latent", latent)
        return self.decode(self.restored_latent(latent, probe, tokens))

    def restored_latent(
        self, latent: Tensor, probe: Probe = no_probe, tokens: Tensor | None = None
    ) -> Tensor:
        """Return the restored latent of a degraded one, both (B, latent, 32, 32)."""
        generated = self.writer(latent, self.vqvae.quantize, prefixed(probe, "writer/"), tokens)
        prediction = generated.prediction
        probe("tokens", prediction.tokens)
        probe("logits", prediction.logits)
        probe("increments", prediction.increments)
        probe("quantized", prediction.latent)
        probe("states", generated.states)
        refined: Tensor = self.refiner(
            prediction.latent, generated.states, prefixed(probe, "refiner/")
        )
        probe("refined", refined)
        return refined

    def decode(self, latent: Tensor) -> Tensor:
        """Return the image (B, 3, 512, 512) in [0, 1] of a refined latent (B, latent, 32, 32)."""
        return (self.vqvae.decode(latent).clamp(-1.0, 1.0) + 1.0) / 2.0
