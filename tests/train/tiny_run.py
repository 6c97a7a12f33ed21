"""Trains a very small VarFormer-S: imported by tests, and run as a program that tests interrupt.

python tiny_run.py DEVICES PHOTOS OUT [KEY=VALUE ...]
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from varfix.engine.networks.layers.vqvae import VqvaeConfig
from varfix.engine.networks.varformer_s.model import VarformerS
from varfix.engine.networks.varformer_s.prior import PriorConfig, PriorNetwork
from varfix.engine.networks.varformer_s.transformer import TransformerConfig
from varfix.engine.networks.varformer_s.unet import RestorerConfig, RestorerNetwork
from varfix.engine.train.data.photos import load_photos
from varfix.engine.train.data.source import Synthetic
from varfix.engine.train.devices import hardware
from varfix.engine.train.loop import SHIPPED_RECIPE, Trainer
from varfix.engine.train.recipes.recipe import load_recipe
from varfix.engine.train.trainable import trainable_named

RECIPE = [
    "save_every=2",
    "sample_every=0",
    "report_every=0",
    "vqvae={steps: 3, batch_size: 2, warmup: 1}",
    "prior={steps: 3, batch_size: 2, warmup: 1}",
    "heads={steps: 4, batch_size: 2, warmup: 1}",
    "judge={steps: 4, batch_size: 2, image_sizes: [96], warmup: 1, skip_above_grad_norm: 300}",
    "restorer={steps: 5, batch_size: 2, patches: 1, patch: 64, warmup: 1}",
]
ONLY_VQVAE = [f"{name}.steps=0" for name in ("prior", "heads", "judge", "restorer")]


def build():
    vqvae = VqvaeConfig(channels=16, multipliers=(1, 1, 1), blocks=1, codes=16, groups=8, patch=4)
    transformer = TransformerConfig(width=16, heads=2, depth=1, memory=48, codes=16)
    return VarformerS(
        PriorNetwork(PriorConfig(vqvae, transformer, adapter=16)),
        RestorerNetwork(RestorerConfig(widths=(8, 8, 8, 8), blocks=1, middle=1)),
    )


def trainable():
    return replace(trainable_named("varformer-s"), build=build)


def trainer(photos, out, *overrides, kind=Trainer, machine=None):
    recipe = load_recipe(SHIPPED_RECIPE, [*RECIPE, *overrides])
    out.mkdir(parents=True, exist_ok=True)
    source = Synthetic(load_photos([photos]), recipe.degradations)
    return kind(recipe, trainable(), source, out, machine)


if __name__ == "__main__":
    torch.set_num_threads(1)
    machine = hardware(int(sys.argv[1]))
    trainer(Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:], machine=machine).run()
