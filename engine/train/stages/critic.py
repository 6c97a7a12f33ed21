"""An adversary that learns to distinguish generated from real patches (PatchGAN).

It is trained in the stage that uses it. One sum of losses trains the network and the critic at
once:
each term treats the weights of the other one as constants.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

SLOPE = 0.2


class PatchCritic(nn.Module):
    """Scores overlapping patches of about 70 pixels; positive means real."""

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

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (B, 1, h, w) of images (B, 3, H, W) in [-1, 1]."""
        x = functional.leaky_relu(self.enter(image), SLOPE)
        return self.judge(self.halve(x))


def adversarial(critic: PatchCritic, generated: Tensor, real: Tensor) -> dict[str, Tensor]:
    """Return the hinge losses of both sides.

    Args:
        critic: The adversary.
        generated: (B, 3, H, W) in about [-1, 1], from the trained network.
        real: The same shape.

    Returns:
        `deceive`, whose gradient reaches only the network, and `critic`, whose gradient reaches
        only the critic.
    """
    fixed = {name: weight.detach() for name, weight in critic.named_parameters()}
    deceive = -functional_call(critic, fixed, (generated,)).mean()
    on_real, on_generated = critic(real), critic(generated.detach())
    caught = functional.relu(1.0 - on_real).mean() + functional.relu(1.0 + on_generated).mean()
    return {"deceive": deceive, "critic": 0.5 * caught}
