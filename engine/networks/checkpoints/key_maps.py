"""Key maps: from the entries of published checkpoints to the parameter names in varfix.

Each row is a pattern that must match a whole name, and its replacement. The first match counts; a
name without a match is unknown and rejected. The published files are the VQ-VAE
(`vae_ch160v4096z32.pth`), VAR (`var_d16.pth`), VarFormer (`net_g_last.pth`), which repeats the
entries of the other two, and RestoreVAR: `vae_restorevar.ckpt` has the VQ-VAE's names;
`restorevar.pth` holds the transformer, which keeps VAR's names for the parts of VAR, and the
refiner under a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Table = tuple[tuple[str, str], ...]

VQVAE_ENTRY = "encoder.conv_in.weight"
VAR_ENTRY = "word_embed.weight"
RESTOREVAR_ENTRY = "global_embed_gain"
VARFORMER_ENTRY = "main_decoder.theta"
"""Entries by which the published networks are recognized."""

VQVAE: Table = (
    (r"((?:encoder|decoder|quant_conv|post_quant_conv)\..+)", r"\1"),
    (r"(quantize\.embedding\.weight)", r"\1"),
    (r"quantize\.quant_resi\.qresi_ls\.(.+)", r"quantize.phi.\1"),
)

VAR: Table = (
    (r"class_emb\.(.+)", r"condition.\1"),
    (r"pos_start", r"start"),
    (r"pos_1LC", r"position"),
    (r"lvl_embed\.(.+)", r"scale.\1"),
    (r"word_embed\.(.+)", r"word.\1"),
    (r"(blocks\.\d+)\.ada_lin\.1\.(.+)", r"\1.modulation.\2"),
    (r"(blocks\.\d+)\.attn\.scale_mul_1H11", r"\1.attention.sharpness"),
    (r"(blocks\.\d+)\.attn\.mat_qkv\.(.+)", r"\1.attention.qkv.\2"),
    (r"(blocks\.\d+)\.attn\.q_bias", r"\1.attention.query_bias"),
    (r"(blocks\.\d+)\.attn\.v_bias", r"\1.attention.value_bias"),
    (r"(blocks\.\d+)\.attn\.proj\.(.+)", r"\1.attention.project.\2"),
    (r"(blocks\.\d+)\.ffn\.fc1\.(.+)", r"\1.feed.0.\2"),
    (r"(blocks\.\d+)\.ffn\.fc2\.(.+)", r"\1.feed.2.\2"),
    (r"head_nm\.ada_lin\.1\.(.+)", r"head_modulation.\1"),
    (r"(head\.(?:weight|bias))", r"\1"),
)

CROSS: Table = (
    (r"cross_attn_blocks\.(\d+)\.mat_q\.(.+)", r"cross.\1.query.\2"),
    (r"cross_attn_blocks\.(\d+)\.mat_kv\.(.+)", r"cross.\1.key_value.\2"),
    (r"cross_attn_blocks\.(\d+)\.q_bias", r"cross.\1.query_bias"),
    (r"cross_attn_blocks\.(\d+)\.v_bias", r"cross.\1.value_bias"),
    (r"cross_attn_blocks\.(\d+)\.proj\.(.+)", r"cross.\1.project.\2"),
)

ADAPTER: Table = (
    (r"ft_layers\.blks\.(\d+)\.norm1\.(.+)", r"blocks.\1.norm_gate.\2"),
    (r"ft_layers\.blks\.(\d+)\.conv1\.(.+)", r"blocks.\1.widen_gate.\2"),
    (r"ft_layers\.blks\.(\d+)\.conv2\.(.+)", r"blocks.\1.depthwise.\2"),
    (r"ft_layers\.blks\.(\d+)\.sca1\.conv0\.(.+)", r"blocks.\1.spatial.near.\2"),
    (r"ft_layers\.blks\.(\d+)\.sca1\.conv_spatial\.(.+)", r"blocks.\1.spatial.far.\2"),
    (r"ft_layers\.blks\.(\d+)\.sca1\.conv1\.(.+)", r"blocks.\1.spatial.halve.\2"),
    (r"ft_layers\.blks\.(\d+)\.sca2\.1\.(.+)", r"blocks.\1.overall.\2"),
    (r"ft_layers\.blks\.(\d+)\.conv3\.(.+)", r"blocks.\1.project_gate.\2"),
    (r"ft_layers\.blks\.(\d+)\.norm2\.(.+)", r"blocks.\1.norm_curve.\2"),
    (r"ft_layers\.blks\.(\d+)\.conv4\.(.+)", r"blocks.\1.widen_curve.\2"),
    (
        r"ft_layers\.blks\.(\d+)\.IMAC\.predictA(\d)\.(.+)",
        r"blocks.\1.curve.curves.\2.predict.\3",
    ),
    (r"ft_layers\.blks\.(\d+)\.IMAC\.conv(\d)\.(.+)", r"blocks.\1.curve.curves.\2.conv.\3"),
    (r"ft_layers\.blks\.(\d+)\.conv5\.(.+)", r"blocks.\1.project_curve.\2"),
    (r"ft_layers\.blks\.(\d+)\.(beta|gamma)", r"blocks.\1.\2"),
)

# Main encoder and main decoder, without their own prefix.
_PRIOR = r"cat_rec_syn\.Level_([1-9])"
_SWIN = r"(cat_rec_syn|DAE)\.Level_([1-9])\.swin_blocks\.(\d)"
_SWIN_BLOCK = _SWIN + r"\.residual_group\.blocks\.(\d)"
MAIN: Table = (
    (_SWIN_BLOCK + r"\.norm1\.(.+)", r"fusion.\2.<\1>.swin.\3.blocks.\4.norm_attention.\5"),
    (
        _SWIN_BLOCK + r"\.attn\.relative_position_bias_table",
        r"fusion.\2.<\1>.swin.\3.blocks.\4.attention.bias_table",
    ),
    (_SWIN_BLOCK + r"\.attn\.qkv\.(.+)", r"fusion.\2.<\1>.swin.\3.blocks.\4.attention.qkv.\5"),
    (
        _SWIN_BLOCK + r"\.attn\.proj\.(.+)",
        r"fusion.\2.<\1>.swin.\3.blocks.\4.attention.project.\5",
    ),
    (_SWIN_BLOCK + r"\.norm2\.(.+)", r"fusion.\2.<\1>.swin.\3.blocks.\4.norm_feed.\5"),
    (_SWIN_BLOCK + r"\.mlp\.fc1\.(.+)", r"fusion.\2.<\1>.swin.\3.blocks.\4.feed.0.\5"),
    (_SWIN_BLOCK + r"\.mlp\.fc2\.(.+)", r"fusion.\2.<\1>.swin.\3.blocks.\4.feed.2.\5"),
    (_SWIN + r"\.conv\.(.+)", r"fusion.\2.<\1>.swin.\3.conv.\4"),
    (r"cat_rec_syn_bf_nm\.Level_([1-9])\.(.+)", r"fusion.\1.prior.norm.\2"),
    (r"cat_rec_syn_bf\.Level_([1-9])\.(.+)", r"fusion.\1.prior.query.\2"),
    (_PRIOR + r"\.conv1x1\.(.+)", r"fusion.\1.prior.to_weights.\2"),
    (_PRIOR + r"\.conv_out\.(.+)", r"fusion.\1.prior.project.\2"),
    (_PRIOR + r"\.upsample\.conv\.(.+)", r"fusion.\1.prior.smooth.\2"),
    (r"DAE\.Level_([1-9])\.conv1x1\.(.+)", r"fusion.\1.enhance.to_regions.\2"),
    (r"AFT\.Level_([1-9])\.norm_q\.(.+)", r"fusion.\1.transform.norm_query.\2"),
    (r"AFT\.Level_([1-9])\.q\.(.+)", r"fusion.\1.transform.query.\2"),
    (r"AFT\.Level_([1-9])\.norm_kv\.(.+)", r"fusion.\1.transform.norm_key_value.\2"),
    (r"AFT\.Level_([1-9])\.kv\.(.+)", r"fusion.\1.transform.key_value.\2"),
    (r"AFT\.Level_([1-9])\.norm_a\.(.+)", r"fusion.\1.transform.norm_mediator.\2"),
    (r"AFT\.Level_([1-9])\.a\.(.+)", r"fusion.\1.transform.mediator.\2"),
    (r"AFT\.Level_([1-9])\.proj_out\.(.+)", r"fusion.\1.transform.project.\2"),
    (r"input_w", r"picture_share"),
    (r"theta", r"theta"),
    (r"((?:conv_in|down|up|mid|norm_out|conv_out)\..+)", r"\1"),
)

RESTOREVAR: Table = (
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

# Refiner, without `REFINER_PREFIX`.
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

UNUSED: Table = (
    (r".*\.relative_position_index", "constant: the order of positions in a window"),
    (r".*\.attn_mask", "constant: the mask of shifted windows"),
    (r".*\.zero_k_bias", "constant: zeros in place of a bias of the keys"),
    (r"lvl_1L(?:_cond)?", "constant: the scale of every token"),
    (r"freqs_cis(?:_cross)?", "constant: the tokens' positions as rotations"),
    (r"attn_bias_for_masking", "constant: the mask of a training without cache"),
    (r"quantize\.ema_vocab_hit_SV", "statistics of the pre-training"),
    (r".*\.patch_embed\.proj\.(?:weight|bias)", "never run: layers without input"),
    (
        r"(?:Mainencoder|main_decoder)\.(?:DAE|AFT|cat_rec_syn(?:_bf(?:_nm)?)?)\.Level_0\..+",
        "never run: the finest level has no fusion",
    ),
    (r"main_decoder\.conv1__w\.(?:weight|bias)", "without effect: a softmax over one number"),
)
"""Entries of the published files that no result depends on, with the reason."""

DEFORMABLE = re.compile(r"main_decoder\.(?:off_attn|align_func_dict|cat_convs)\..+")
"""Entries that only the deformable decoder (`dec_adjust`) has."""


def look_up(name: str, table: Table) -> str | None:
    """Return the replacement of the first row that matches a name; None if no row matches."""
    for pattern, replacement in table:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement) if match.re.groups else replacement
    return None


def varformer_name(name: str) -> str | None:
    """Return the name in `Varformer` of an entry of the published VarFormer."""
    if name.startswith("Mainencoder."):
        return _main("encoder", name.removeprefix("Mainencoder."))
    if name.startswith("main_decoder."):
        return _main("decoder", name.removeprefix("main_decoder."))
    for part, table in (("vqvae", VQVAE), ("var", VAR + CROSS), ("adapter", ADAPTER)):
        found = look_up(name, table)
        if found is not None:
            return f"{part}.{found}"
    return None


def _main(part: str, name: str) -> str | None:
    found = look_up(name, MAIN)
    if found is None:
        return None
    return f"{part}." + found.replace("<cat_rec_syn>", "prior").replace("<DAE>", "enhance")


def vqvae_name(name: str) -> str | None:
    """Return the name in `Vqvae` of an entry of the published VQ-VAE."""
    return look_up(name, VQVAE)


def var_name(name: str) -> str | None:
    """Return the name in `Var` of an entry of the published VAR."""
    return look_up(name, VAR)


def restorevar_name(name: str) -> str | None:
    """Return the name, under `writer` or `refiner`, of an entry of `restorevar.pth`."""
    if name.startswith(REFINER_PREFIX):
        part, found = "refiner", look_up(name.removeprefix(REFINER_PREFIX), REFINER)
    else:
        part, found = "writer", look_up(name, RESTOREVAR + VAR)
    return None if found is None else f"{part}.{found}"


def unused_entries(names: Iterable[str]) -> dict[str, str]:
    """Return the names that no result depends on, with the reasons."""
    reasons = {name: look_up(name, UNUSED) for name in names}
    return {name: reason for name, reason in reasons.items() if reason is not None}
