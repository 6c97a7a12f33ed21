"""RestoreVAR as released: VAR itself writes the restored image's tokens, at 512 x 512.

The VQ-VAE encodes the degraded image, the writer predicts the clean one's tokens, the refiner
makes their latent continuous, the fine-tuned decoder draws it. Source:
engine/networks/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from varfix.engine.networks.layers.next_scale import each_alone
from varfix.engine.networks.layers.probes import Tap, ignore, under
from varfix.engine.networks.layers.quantizer import FINE_SCALES
from varfix.engine.networks.layers.vqvae import Vqvae, VqvaeConfig
from varfix.engine.networks.restorevar.refiner import Refiner, RefinerConfig
from varfix.engine.networks.restorevar.transformer import Writer, WriterConfig


@dataclass(frozen=True)
class RestoreVarConfig:
    """Sizes of all parts; the defaults are the released network's."""

    vqvae: VqvaeConfig = field(default_factory=lambda: VqvaeConfig(scales=FINE_SCALES))
    writer: WriterConfig = field(default_factory=WriterConfig)
    refiner: RefinerConfig = field(default_factory=RefinerConfig)


class RestoreVar(nn.Module):
    """The whole network."""

    def __init__(self, vqvae: Vqvae, writer: Writer, refiner: Refiner) -> None:
        super().__init__()
        self.vqvae, self.writer, self.refiner = vqvae, writer, refiner

    def forward(self, picture: Tensor) -> Tensor:
        """Map (B, 3, 512, 512) in [-1, 1] to (B, 3, 512, 512) in [0, 1]; raises as `each_alone`."""
        return each_alone(self.restore, picture, self.vqvae.side)

    def restore(self, picture: Tensor, tap: Tap = ignore, tokens: Tensor | None = None) -> Tensor:
        """Restore a batch together.

        Args:
            picture: (B, 3, 512, 512) in [-1, 1].
            tap: receives intermediate results.
            tokens: (B, 2240) int64, the clean image's where they are known; see `generate`.

        Returns:
            (B, 3, 512, 512) in [0, 1].
        """
        latent = self.vqvae.encoder(picture)
        tap("latent", latent)
        return self.draw(self.refined(latent, tap, tokens))

    def refined(self, latent: Tensor, tap: Tap = ignore, tokens: Tensor | None = None) -> Tensor:
        """The restored latent of a degraded one, both (B, latent, 32, 32); as `restore`."""
        written = self.writer(latent, self.vqvae.quantize, under(tap, "writer/"), tokens)
        predicted = written.predicted
        tap("tokens", predicted.tokens)
        tap("logits", predicted.logits)
        tap("increments", predicted.increments)
        tap("quantized", predicted.latent)
        tap("states", written.states)
        refined: Tensor = self.refiner(predicted.latent, written.states, under(tap, "refiner/"))
        tap("refined", refined)
        return refined

    def draw(self, latent: Tensor) -> Tensor:
        """The image (B, 3, 512, 512) in [0, 1] of a refined latent (B, latent, 32, 32)."""
        return (self.vqvae.decode(latent).clamp(-1.0, 1.0) + 1.0) / 2.0


def build_restorevar(config: RestoreVarConfig) -> RestoreVar:
    """Build an untrained network."""
    network = RestoreVar(Vqvae(config.vqvae), Writer(config.writer), Refiner(config.refiner))
    network.writer.initialize()
    network.refiner.initialize()
    return network
