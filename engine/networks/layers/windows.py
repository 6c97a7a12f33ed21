"""Feature maps split into square windows, and joined again."""

from __future__ import annotations

from torch import Tensor


def to_windows(x: Tensor, window: int) -> Tensor:
    """Return (B, C, H, W) as (B * windows, window * window, C)."""
    B, C, H, W = x.shape
    x = x.reshape(B, C, H // window, window, W // window, window)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(-1, window * window, C)


def from_windows(x: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """Return (B * windows, window * window, C) as (B, C, H, W); the inverse of `to_windows`."""
    H, W = size
    C = x.shape[-1]
    x = x.reshape(-1, H // window, W // window, window, window, C)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, C, H, W)
