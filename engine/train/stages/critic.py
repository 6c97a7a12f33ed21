"""An adversary that learns to tell drawn patches from photographed ones (PatchGAN).

It trains inside the stage it serves: one sum of losses moves the network and the critic at once,
each by its own part of it, because each part sees the other's weights as constants.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

SLOPE = 0.2


class PatchCritic(nn.Module):
    """Judges overlapping patches of about 70 pixels: positive means photographed."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        widths = (channels, 2 * channels, 4 * channels)
        self.enter = nn.Conv2d(3, channels, 4, stride=2, padding=1)
        self.halve = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False),
                    nn.InstanceNorm2d(after, affine=True),
                    nn.LeakyReLU(SLOPE),
                )
                for before, after in pairwise(widths)
            )
        )
        self.judge = nn.Conv2d(widths[-1], 1, 4, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        """Judgments (B, 1, h, w) of images (B, 3, H, W) in [-1, 1]."""
        x = functional.leaky_relu(self.enter(picture), SLOPE)
        return self.judge(self.halve(x))


def adversarial(critic: PatchCritic, drawn: Tensor, real: Tensor) -> dict[str, Tensor]:
    """Hinge losses of both sides.

    Args:
        critic: the adversary.
        drawn: (B, 3, H, W) in about [-1, 1], of the network that is to deceive.
        real: the same shape.

    Returns:
        `deceive`, which moves only what drew, and `critic`, which moves only the critic.
    """
    fixed = {name: weight.detach() for name, weight in critic.named_parameters()}
    deceive = -functional_call(critic, fixed, (drawn,)).mean()
    on_real, on_drawn = critic(real), critic(drawn.detach())
    caught = functional.relu(1.0 - on_real).mean() + functional.relu(1.0 + on_drawn).mean()
    return {"deceive": deceive, "critic": 0.5 * caught}
