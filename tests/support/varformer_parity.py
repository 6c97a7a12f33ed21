"""VarFormer's parity kit beside the repository, and tiny networks with public names.

The golden arrays were made by the released classes with synthetic weights, which the kit can make
again.
"""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support.released_networks import from_transformer, randomised, token_feeds

from varfix.engine.networks.layers.quantizer import SCALES
from varfix.engine.networks.layers.vqvae import VqvaeConfig
from varfix.engine.networks.varformer.model import Varformer, VarformerConfig
from varfix.engine.networks.varformer.var import VarConfig

SMALLEST = VarformerConfig(
    vqvae=VqvaeConfig(channels=32, multipliers=(1, 2), blocks=1, codes=64),
    var=VarConfig(width=64, heads=1, depth=1, cross=1, codes=64, classes=3),
    adapter=1,
)
"""A configuration that the loader takes: 32 x 32 pixels, two levels, one block."""

PUBLIC = [
    (r"vqvae\.quantize\.phi", "quantize.quant_resi.qresi_ls"),
    (r"vqvae\.", ""),
    (r"var\.start", "pos_start"),
    (r"var\.position", "pos_1LC"),
    (r"var\.head_modulation\.", "head_nm.ada_lin.1."),
    (r"var\.blocks\.(\d)\.modulation\.", r"blocks.\1.ada_lin.1."),
    *from_transformer("var"),
    (r"var\.cross\.(\d)\.query\.", r"cross_attn_blocks.\1.mat_q."),
    (r"var\.cross\.(\d)\.key_value\.", r"cross_attn_blocks.\1.mat_kv."),
    (r"var\.cross\.(\d)\.query_bias", r"cross_attn_blocks.\1.q_bias"),
    (r"var\.cross\.(\d)\.value_bias", r"cross_attn_blocks.\1.v_bias"),
    (r"var\.cross\.(\d)\.project\.", r"cross_attn_blocks.\1.proj."),
    (r"adapter\.blocks\.(\d)\.norm_gate\.", r"ft_layers.blks.\1.norm1."),
    (r"adapter\.blocks\.(\d)\.norm_curve\.", r"ft_layers.blks.\1.norm2."),
    (r"adapter\.blocks\.(\d)\.widen_gate\.", r"ft_layers.blks.\1.conv1."),
    (r"adapter\.blocks\.(\d)\.depthwise\.", r"ft_layers.blks.\1.conv2."),
    (r"adapter\.blocks\.(\d)\.project_gate\.", r"ft_layers.blks.\1.conv3."),
    (r"adapter\.blocks\.(\d)\.widen_curve\.", r"ft_layers.blks.\1.conv4."),
    (r"adapter\.blocks\.(\d)\.project_curve\.", r"ft_layers.blks.\1.conv5."),
    (r"adapter\.blocks\.(\d)\.spatial\.near\.", r"ft_layers.blks.\1.sca1.conv0."),
    (r"adapter\.blocks\.(\d)\.spatial\.far\.", r"ft_layers.blks.\1.sca1.conv_spatial."),
    (r"adapter\.blocks\.(\d)\.spatial\.halve\.", r"ft_layers.blks.\1.sca1.conv1."),
    (r"adapter\.blocks\.(\d)\.overall\.", r"ft_layers.blks.\1.sca2.1."),
    (
        r"adapter\.blocks\.(\d)\.curve\.curves\.(\d)\.predict\.",
        r"ft_layers.blks.\1.IMAC.predictA\2.",
    ),
    (r"adapter\.blocks\.(\d)\.curve\.curves\.(\d)\.conv\.", r"ft_layers.blks.\1.IMAC.conv\2."),
    (r"adapter\.blocks\.(\d)\.(beta|gamma)", r"ft_layers.blks.\1.\2"),
    (r"\.fusion\.(\d)\.prior\.norm\.", r".cat_rec_syn_bf_nm.Level_\1."),
    (r"\.fusion\.(\d)\.prior\.query\.", r".cat_rec_syn_bf.Level_\1."),
    (r"\.fusion\.(\d)\.prior\.to_weights\.", r".cat_rec_syn.Level_\1.conv1x1."),
    (r"\.fusion\.(\d)\.prior\.project\.", r".cat_rec_syn.Level_\1.conv_out."),
    (r"\.fusion\.(\d)\.prior\.smooth\.", r".cat_rec_syn.Level_\1.upsample.conv."),
    (r"\.fusion\.(\d)\.prior\.swin\.(\d)\.", r".cat_rec_syn.Level_\1.swin_blocks.\2."),
    (r"\.fusion\.(\d)\.enhance\.swin\.(\d)\.", r".DAE.Level_\1.swin_blocks.\2."),
    (r"\.fusion\.(\d)\.enhance\.to_regions\.", r".DAE.Level_\1.conv1x1."),
    (r"\.fusion\.(\d)\.transform\.norm_query\.", r".AFT.Level_\1.norm_q."),
    (r"\.fusion\.(\d)\.transform\.norm_key_value\.", r".AFT.Level_\1.norm_kv."),
    (r"\.fusion\.(\d)\.transform\.norm_mediator\.", r".AFT.Level_\1.norm_a."),
    (r"\.fusion\.(\d)\.transform\.query\.", r".AFT.Level_\1.q."),
    (r"\.fusion\.(\d)\.transform\.key_value\.", r".AFT.Level_\1.kv."),
    (r"\.fusion\.(\d)\.transform\.mediator\.", r".AFT.Level_\1.a."),
    (r"\.fusion\.(\d)\.transform\.project\.", r".AFT.Level_\1.proj_out."),
    (r"(swin_blocks\.\d\.)blocks\.", r"\1residual_group.blocks."),
    (r"(residual_group\.blocks\.\d\.)norm_attention\.", r"\1norm1."),
    (r"(residual_group\.blocks\.\d\.)norm_feed\.", r"\1norm2."),
    (
        r"(residual_group\.blocks\.\d\.)attention\.bias_table",
        r"\1attn.relative_position_bias_table",
    ),
    (r"(residual_group\.blocks\.\d\.)attention\.qkv\.", r"\1attn.qkv."),
    (r"(residual_group\.blocks\.\d\.)attention\.project\.", r"\1attn.proj."),
    (r"(residual_group\.blocks\.\d\.)feed\.0\.", r"\1mlp.fc1."),
    (r"(residual_group\.blocks\.\d\.)feed\.2\.", r"\1mlp.fc2."),
    (r"decoder\.picture_share", "decoder.input_w"),
]
"""From our names to the public ones, in order: the reverse of what the loader does."""


def public_name(name):
    main = re.match(r"(encoder|decoder)\.", name)
    for pattern, replacement in PUBLIC:
        name = re.sub(pattern, replacement, name)
    if main:
        name = {"encoder": "Mainencoder", "decoder": "main_decoder"}[main[1]] + name[main.end(1) :]
    return name


def public_state(network):
    """A network's weights under their public names."""
    return {public_name(name): tensor for name, tensor in network.state_dict().items()}


def tiny_network(config=SMALLEST, std=0.15, seed=0):
    """A network with random weights everywhere, also where training begins with zeros."""
    return randomised(Varformer(config), std, seed).requires_grad_(False)


PARITY = Path(__file__).parents[3] / "shared" / "parity" / "varformer"
CASES = (1, 2, 3)

CUTS = np.cumsum([p * p for p in SCALES])[:-1]
NOT_COMPUTED = {"mainenc/weighted_z", "vqdec/Level_0"}
"""Stages of the released code that no result depends on."""

MARGINS = [1e-4] * 6 + [1e-3, 1e-3, 4e-3, 2e-2]
"""Per scale: a token less certain than this may come out differently."""


def released_state(seed):
    """The kit's synthetic checkpoint under its public names; 3.7 GB."""
    spec = importlib.util.spec_from_file_location("fill_weights", PARITY / "fill_weights.py")
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    rows = [r.split("\t") for r in (PARITY / "varformer_keys.tsv").read_text().splitlines()[1:]]
    shapes = {r[0]: () if r[1] == "scalar" else tuple(map(int, r[1].split("x"))) for r in rows}
    return {
        name: torch.from_numpy(np.asarray(kit.fill(name, shape, seed)))
        for name, shape in shapes.items()
    }


def tolerance(name):
    """Largest difference allowed (engine/networks/README.md, "Parity")."""
    if name == "out":
        return 2e-4
    if name == "mainenc_z":
        return 5e-4
    if name.endswith("scale_weight_logits"):
        return 1e-3
    if name.startswith(("var/", "logits_slice")):
        scale = int(name.rsplit("s", 1)[1])
        return 2e-3 if scale <= 5 else 2e-2 if scale <= 8 else 1e-1
    if name.startswith(("S_v", "f_hat", "var_input", "quant_fhat")):
        return 1e-5
    stages = {"vqenc": 2e-4, "adapter": 2e-4, "mainenc": 1e-3, "vqdec": 1e-3, "maindec": 3e-3}
    return next(allowed for stage, allowed in stages.items() if name.startswith(stage))


def thinned(name, value, shape):
    """The part of a result that the kit stores."""
    if value.ndim == 4 and len(shape) == 3:
        value = value.flatten(2).transpose(1, 2)
    if value.shape == shape:
        return value
    if name.startswith("var/"):
        return value[..., :: value.shape[-1] // shape[-1]]
    if value.ndim == 3:
        length, channels = value.shape[1:]
        return value[:, :: max(1, length // 32), :: max(1, channels // 16)]
    if value.ndim == 4:
        channels, side = value.shape[1:3]
        kept = [0, channels // 3, channels - 1] if shape[1] != channels else slice(None)
        step = max(1, side // 32) if shape[2] != side else 1
        return value[:, kept, ::step, ::step]
    return value


def summary(value):
    """Mean, deviation and largest magnitude: what the kit tells of a whole result."""
    value = value.double()
    return torch.stack([value.mean(), value.std(), value.abs().max()]).numpy()


class Comparison:
    """Compares each result with its golden array as it comes, and keeps the difference only."""

    def __init__(self, golden):
        self.golden = golden
        self.statistics = dict(zip(golden["stat_names"], golden["stat_values"], strict=True))
        self.worst = {}
        self.root_mean_square = {}

    def __call__(self, name, value):
        if name in self.golden.files:
            theirs = self.golden[name]
            stored = thinned(name, value, theirs.shape)
            self.compare(name, stored.numpy(), theirs)
            if name in self.statistics:
                whole = stored if name.startswith("var/") else value
                self.compare(f"{name}#", summary(whole), self.statistics[name])

    def compare(self, name, ours, theirs):
        assert ours.shape == theirs.shape, name
        difference = np.abs(ours.astype(np.float64) - theirs)
        self.worst[name] = float(difference.max())
        self.root_mean_square[name] = float(np.sqrt(np.square(difference).mean()))

    def predicted(self, predicted):
        """What the transformer found: every 64th logit by scale, S and its sum."""
        ours = np.split(predicted.logits[..., ::64].numpy(), CUTS, axis=1)
        theirs = np.split(self.golden["logits_slice"], CUTS, axis=1)
        for k, (mine, golden) in enumerate(zip(ours, theirs, strict=True)):
            self.compare(f"logits_slice/s{k}", mine, golden)
        self.compare("S_v", predicted.increments.numpy(), self.golden["S_v"])
        self.compare("f_hat", predicted.latent.numpy(), self.golden["f_hat"])

    def by_stage(self):
        """The largest difference and the smallest allowed one of each stage, to be printed."""
        stages = {}
        for name, worst in self.worst.items():
            parts = name.rstrip("#").split("/")
            first, last = parts[0], parts[-1]
            stage = f"{first}/{last}" if first in ("var", "logits_slice") else first
            known = stages.get(stage, (0.0, np.inf))
            stages[stage] = max(worst, known[0]), min(tolerance(name.rstrip("#")), known[1])
        return {k: f"{worst:.1e} of {allowed:.0e}" for k, (worst, allowed) in stages.items()}

    def too_large(self):
        allowed = {name: tolerance(name.rstrip("#")) for name in self.worst}
        return {name: worst for name, worst in self.worst.items() if worst > allowed[name]}


def inexcusable(ours, theirs, margin, allowed):
    """How many tokens differ although they were certain."""
    return int(((ours != theirs) & (margin >= allowed)).sum())


def golden_case(number):
    """The stored arrays of a case; skips the test where there is no kit."""
    if not PARITY.is_dir():
        pytest.skip("no parity kit beside the repository (shared/parity/varformer)")
    return np.load(PARITY / f"golden_varformer_case{number}.npz")


def forced_feeds(tile, tokens):
    """What a forced graph is fed: an image (1, 3, T, T) and the tokens (1, 680) of all scales."""
    return {"tile": tile} | token_feeds(tokens, SCALES)
