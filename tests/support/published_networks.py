"""Checkpoints of published networks with random weights: tiny ones, and ones of published size."""

from importlib import import_module
from typing import Any

TINY: dict[str, dict[str, Any]] = {
    "NAFNet": {
        "width": 8,
        "middle_blk_num": 1,
        "enc_blk_nums": [1, 1],
        "dec_blk_nums": [1, 1],
    },
    "SCUNet": {"config": [1] * 7, "dim": 64},
    "FBCNN": {"nc": [8, 16, 16, 512], "nb": 2},
    "DRUNet": {"in_nc": 4, "out_nc": 3, "nc": [8, 16, 16, 32], "nb": 2},
    "DnCNN": {"in_nc": 3, "out_nc": 3, "nc": 8, "nb": 17, "act_mode": "R"},
    "SwinIR": {
        "window_size": 8,
        "embed_dim": 12,
        "depths": [2, 2],
        "num_heads": [2, 2],
        "mlp_ratio": 2.0,
    },
    "RetinexFormer": {"n_feat": 8, "stage": 1, "num_blocks": [1, 1, 1]},
    "MIRNet2": {"n_feat": 16, "n_MRB": 1},
    "MPRNet": {"n_feat": 8, "scale_unetfeats": 4, "scale_orsnetfeats": 4, "num_cab": 2},
    "Restormer": {
        "dim": 8,
        "num_blocks": [1, 1, 1, 1],
        "num_refinement_blocks": 1,
        "heads": [1, 1, 1, 1],
    },
}
"""Arguments of the smallest networks that spandrel recognizes."""

PUBLISHED: dict[str, dict[str, Any]] = {
    "NAFNet": {
        "width": 32,
        "middle_blk_num": 12,
        "enc_blk_nums": [2, 2, 4, 8],
        "dec_blk_nums": [2, 2, 2, 2],
    },
    "SCUNet": {},
    "FBCNN": {},
    "DRUNet": {"in_nc": 4, "out_nc": 3},
    "SwinIR": {
        "img_size": 128,
        "window_size": 8,
        "embed_dim": 180,
        "depths": [6] * 6,
        "num_heads": [6] * 6,
        "mlp_ratio": 2.0,
    },
    "RetinexFormer": {"n_feat": 40, "stage": 1, "num_blocks": [1, 2, 2]},
    "MIRNet2": {},
    "MPRNet": {},
    "Restormer": {},
}
"""Arguments of the networks as they were published."""

EXTRA = frozenset({"MIRNet2", "MPRNet", "Restormer"})
"""Networks in the package whose licenses forbid commercial use."""


def network(name, arguments):
    """Return a network with random weights.

    Weights that begin as zeros, such as the factors of NAFNet's blocks, would leave parts of the
    network without effect.
    """
    import torch

    package = "spandrel_extra_arches" if name in EXTRA else "spandrel"
    torch.manual_seed(0)
    made = getattr(import_module(f"{package}.architectures.{name}"), name)(**arguments)
    for weights in made.parameters():
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.1)
    return made.eval()
