"""Next-scale transformer with cross-attention to the degraded image (VarFormer, section 3).

VAR predicts the tokens of a scale from all coarser scales. VarFormer-S predicts all scales in one
pass, teacher-forced on the pyramid of the degraded image. A mask restricts each token to its own
scale and coarser ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from varfix.engine.networks.layers.attention import MultiHeadAttention, feed_forward
from varfix.engine.networks.layers.quantizer import SCALES, next_scale_mask, scale_of_token


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the transformer.

    Attributes:
        width: Channels.
        heads: Heads of both attentions.
        depth: Number of blocks.
        latent: Channels of the latent.
        memory: Channels of the image features for the cross-attention.
        codes: Entries of the codebook.
        tasks: Number of tasks, with `auto`.
    """

    width: int = 192
    heads: int = 4
    depth: int = 4
    latent: int = 32
    memory: int = 224
    codes: int = 1024
    tasks: int = 7


class Block(nn.Module):
    """Self-attention over scales, cross-attention to the image, feed-forward; pre-norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.norm_self = nn.LayerNorm(width)
        self.self_attention = MultiHeadAttention(width, config.heads, width)
        self.norm_cross = nn.LayerNorm(width)
        self.cross_attention = MultiHeadAttention(width, config.heads, width)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = feed_forward(width)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Map tokens (B, L, width) to the same shape."""
        normed = self.norm_self(x)
        x = x + self.self_attention(normed, normed, mask)
        x = x + self.cross_attention(self.norm_cross(x), memory)
        fed: Tensor = self.feed(self.norm_feed(x))
        return x + fed


class NextScaleTransformer(nn.Module):
    """Predicts the tokens of all scales of the clean image from the degraded image's pyramid."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        length = sum(p * p for p in SCALES)
        self.task = nn.Embedding(config.tasks, config.width)
        self.start = nn.Parameter(torch.zeros(1, 1, config.width))
        self.word = nn.Linear(config.latent, config.width)
        self.scale = nn.Embedding(len(SCALES), config.width)
        self.position = nn.Parameter(torch.randn(1, length, config.width) * 0.02)
        self.read_memory = nn.Linear(config.memory, config.width)
        self.memory_position = nn.Parameter(torch.randn(1, SCALES[-1] ** 2, config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.codes)
        self.register_buffer("scale_of_token", scale_of_token(), persistent=False)
        self.register_buffer("mask", next_scale_mask(), persistent=False)

    def forward(self, pyramid: Tensor, memory: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """Predict all scales at once.

        Args:
            pyramid: (B, 679, latent), the degraded latent pooled to scales 1..9.
            memory: (B, 256, memory), features of the degraded image.
            task: (B,) int64; 0 means unknown. It replaces VAR's class at the start of the sequence.

        Returns:
            Features (B, 680, width) and logits (B, 680, codes).
        """
        task_embedding = self.task(task)[:, None]  # (B, 1, width)
        words = torch.cat([self.start.expand(len(task), -1, -1), self.word(pyramid)], 1)
        x = words + task_embedding + self.position + self.scale(self.get_buffer("scale_of_token"))
        image = self.read_memory(memory) + self.memory_position
        for block in self.blocks:
            x = block(x, image, self.get_buffer("mask"))
        features = self.norm(x)
        return features, self.head(features)
