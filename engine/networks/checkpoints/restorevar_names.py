"""What the entries of RestoreVAR's two files are called here; see `release_names`.

`vae_restorevar.ckpt` has the VQ-VAE's names. `restorevar.pth` holds the transformer, which keeps
VAR's names for what is VAR's, and the refiner under a prefix.
"""

from __future__ import annotations

from varfix.engine.networks.checkpoints.key_maps import VAR, Table, renamed

READING: Table = (
    (r"cond_proj4\.(.+)", r"project.\1"),
    (r"global_embed_gain", r"whole_gain"),
    (r"global_embed\.(.+)", r"whole.\1"),
    (r"word_embed_cond\.(.+)", r"degraded_word.\1"),
    (r"lvl_embed_cond\.(.+)", r"degraded_scale.\1"),
    (r"(blocks\.\d+)\.cross_attn\.scale_mul_1H11", r"\1.cross.sharpness"),
    (r"(blocks\.\d+)\.cross_attn\.gain", r"\1.cross.gain"),
    (r"(blocks\.\d+)\.cross_attn\.q_proj\.(.+)", r"\1.cross.query.\2"),
    (r"(blocks\.\d+)\.cross_attn\.kv_proj\.(.+)", r"\1.cross.key_value.\2"),
    (r"(blocks\.\d+)\.cross_attn\.out_proj\.(.+)", r"\1.cross.project.\2"),
    (r"(blocks\.\d+)\.cross_attn\.norm_q\.(.+)", r"\1.cross.norm_query.\2"),
    (r"(blocks\.\d+)\.cross_attn\.norm_kv\.(.+)", r"\1.cross.norm_key_value.\2"),
)

# Of the refiner, after its prefix is taken off.
_LAYER = r"transformer\.layers\.(\d+)"
REFINER: Table = (
    (r"pos_embedding", r"position"),
    (r"pos_embedding_cond", r"states_position"),
    (r"norm_in\.(.+)", r"norm_latent.\1"),
    (r"norm_in_cond\.(.+)", r"norm_states.\1"),
    (r"proj_in\.(.+)", r"enter_latent.\1"),
    (r"proj_in_cond\.(.+)", r"enter_states.\1"),
    (_LAYER + r"\.0\.norm\.(.+)", r"blocks.\1.norm_self.\2"),
    (_LAYER + r"\.0\.to_qkv\.(.+)", r"blocks.\1.attention.qkv.\2"),
    (_LAYER + r"\.0\.to_out\.0\.(.+)", r"blocks.\1.attention.project.\2"),
    (_LAYER + r"\.1\.net\.0\.(.+)", r"blocks.\1.feed.0.\2"),
    (_LAYER + r"\.1\.net\.1\.(.+)", r"blocks.\1.feed.1.\2"),
    (_LAYER + r"\.1\.net\.4\.(.+)", r"blocks.\1.feed.3.\2"),
    (_LAYER + r"\.2\.norm_q\.(.+)", r"blocks.\1.norm_query.\2"),
    (_LAYER + r"\.2\.norm_kv\.(.+)", r"blocks.\1.norm_key_value.\2"),
    (_LAYER + r"\.2\.to_q\.(.+)", r"blocks.\1.cross.query.\2"),
    (_LAYER + r"\.2\.to_kv\.(.+)", r"blocks.\1.cross.key_value.\2"),
    (_LAYER + r"\.2\.to_out\.(.+)", r"blocks.\1.cross.project.\2"),
    (r"transformer\.norm\.(.+)", r"norm.\1"),
    (r"proj_out\.(.+)", r"leave.\1"),
)

REFINER_PREFIX = "vae_refiner."


def restorevar_name(name: str) -> str | None:
    """The name, under `writer` or `refiner`, of an entry of the released `restorevar.pth`."""
    if name.startswith(REFINER_PREFIX):
        part, found = "refiner", renamed(name.removeprefix(REFINER_PREFIX), REFINER)
    else:
        part, found = "writer", renamed(name, READING + VAR)
    return None if found is None else f"{part}.{found}"
