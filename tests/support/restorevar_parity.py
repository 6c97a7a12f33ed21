"""The parity kit of RestoreVAR beside the repository: synthetic checkpoints and golden arrays."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support.released_networks import print_figures

from varfix.engine.networks.checkpoints.load import load_restorevar

PARITY = Path(__file__).parents[3] / "shared" / "parity" / "restorevar"


def module(name):
    """A program of the kit, as a module."""
    spec = importlib.util.spec_from_file_location(name, PARITY / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def golden_case(number):
    """The stored arrays of a case; skips the test where there is no kit."""
    if not PARITY.is_dir():
        pytest.skip(f"no parity kit beside the repository ({os.fspath(PARITY)})")
    return np.load(PARITY / f"golden_restorevar_case{number}.npz")


def facts(golden):
    return json.loads(str(golden["meta_json"]))


def shape_of(row, config):
    """Shape of an entry; the tables list the 512 and the tiny configuration only."""
    sizes = row["shape"]
    if row["name"] == "vae_refiner.pos_embedding" and config == "256":
        return (1, 256, 384)
    return () if sizes == "scalar" else tuple(map(int, sizes.split("x")))


def released_states(golden):
    """Both files' entries under their public names: the transformer's, the VQ-VAE's."""
    kit, known = module("fill_weights"), facts(golden)
    table = "restorevar_tiny_keys.tsv" if known["config"] == "tiny" else "restorevar_keys.tsv"
    states = {"var": {}, "vae": {}}
    header, *rows = [line.split("\t") for line in (PARITY / table).read_text().splitlines()]
    for row in (dict(zip(header, cells, strict=True)) for cells in rows):
        name = row["name"]
        filled = kit.fill(name, shape_of(row, known["config"]), known["weight_seed"])
        if filled is None:
            filled = kit.derived(name, known["patch_nums"])
        file = "vae" if "vae" in row["file"] else "var"
        states[file][name] = torch.from_numpy(np.asarray(filled))
    return states["var"], states["vae"]


def released_network(golden):
    return load_restorevar(*released_states(golden))


def image(golden, name="input_u8"):
    """A stored image as the network takes it, (1, 3, side, side) in [-1, 1]."""
    unit = torch.from_numpy(golden[name].astype(np.float32) / 255.0).permute(2, 0, 1)
    return (unit + unit - 1.0)[None]


def stored(golden, name):
    """A stored latent or token row as a batch of one."""
    found = golden[name]
    return torch.from_numpy(found.astype(np.int64) if found.dtype.kind == "i" else found)[None]


BRANCHES = {
    **{
        f"writer/block0/{ours}/s2": f"block0.{theirs}.scale2"
        for ours, theirs in {"attention": "attn", "feed": "ffn", "cross": "cross_attn"}.items()
    },
    **{
        f"refiner/block0/{ours}": f"refiner0.{theirs}"
        for ours, theirs in {"attention": "attn", "feed": "ff", "cross": "ca"}.items()
    },
}
"""What each branch of the first blocks adds: our names, and the kit's."""


def block_names(golden):
    """Names of the states after every block, by block and scale."""
    blocks, scales = len(golden["blocks_sel"]), len(facts(golden)["patch_nums"])
    return [[f"writer/block{b}/s{k}" for k in range(scales)] for b in range(blocks)]


def stage_names(golden):
    """What a run must tell, besides its image, to be compared stage by stage."""
    found = ["logits", "states", "increments", "quantized", "refined", *BRANCHES]
    return found + [name for block in block_names(golden) for name in block]


def fields_of(golden, seen):
    """The kit's fields of what a run came by: arrays by name, of one image, without its axis."""
    chosen, states = golden["sel_tokens"].astype(np.int64), seen["states"]
    blocks = [np.concatenate([seen[n] for n in names])[chosen] for names in block_names(golden)]
    few = [0, 3, 6, len(chosen) // 2, len(chosen) - 2]
    return {
        "logits_full": seen["logits"],
        "blocks_sel": np.stack(blocks)[:, few],
        "last_block_sel": states[chosen],
        "last_block_mean": states.mean(-1),
        "last_block_std": states.std(-1, ddof=1),
        "f_hat": seen["quantized"],
        "f_hat_scales": seen["increments"].cumsum(0)[..., ::4, ::4],
        "refined": seen["refined"],
        "image": seen["restored"],
        **{field: seen[name][: len(golden[field])] for name, field in BRANCHES.items()},
    }


def wrong(golden, fields, mode, from_latent):
    """What the kit's own comparison refuses of a run; prints every figure."""
    path = PARITY / f"golden_restorevar_case{int(golden['case'])}.npz"
    report = module("check_golden").compare(path, fields, mode, from_latent)
    origin = "stored latent" if from_latent else "picture"
    title = f"case {int(golden['case'])} ({facts(golden)['config']}), {mode}, from the {origin}"
    print_figures(title, {name: detail for name, _, detail in report})
    return [line for line in report if not line[1]]
