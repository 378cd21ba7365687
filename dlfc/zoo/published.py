"""Published DLF checkpoints: their parameter names and configuration, mapped to ours completely and strictly."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dlfc.errors import ModelError
from dlfc.model.bottleneck import DepthConvBlock
from dlfc.model.config import DLFConfig
from dlfc.model.detail import ConvNeXtBlock, SwinBlock
from dlfc.model.dlf import DLF
from dlfc.model.generator import MapAttention, ResidualBlock, Upsample
from dlfc.model.vit import Exchange, VitBlock

_VIT_SIZES = {"small": (512, 8, 8), "base": (768, 12, 12), "large": (1024, 24, 16)}  # width, layers, heads
_HEAD_DIM = 64  # of every published transformer, semantic and detail

# What a checkpoint holds beside the codec: losses, training state, constant masks, and the half of the VQGAN that
# only trains.
_IGNORED = re.compile(
    r"(img_loss|feat_loss|vqgan\.loss|vqgan\.encoder|vqgan\.quant_conv)\."
    r"|(lmbda_list|lmbda_idx|epoch_for_strategy)$|.*\.(upper_lower_mask|left_right_mask)$"
)


def read_config(fields: Mapping[str, Any], levels: int = 1) -> DLFConfig:
    """Our configuration from a published one; raises ModelError if it is of a kind that we do not know."""
    try:
        tokenizer, vqgan = fields["config"]["model"]["vq_model"], fields["vqganconfig"]
        sides = _VIT_SIZES[tokenizer["vit_enc_model_size"]], _VIT_SIZES[tokenizer["vit_dec_model_size"]]
        generator = vqgan["ddconfig"]
        if sides[0][::2] != sides[1][::2]:
            raise ValueError("encoder and decoder differ in width")
        return DLFConfig(
            width=sides[0][0],
            heads=sides[0][2],
            encoder_layers=sides[0][1],
            decoder_layers=sides[1][1],
            tokens_per_tile=tokenizer["num_latent_tokens"],
            token_dim=tokenizer["token_size"],
            codebook_size=tokenizer["codebook_size"],
            detail_dim=fields["feat_dim"],
            latent_dim=fields["embed_dim"],
            levels=levels,
            encoder_exchange=tuple(fields["in_pos_enc"]),
            decoder_exchange=tuple(fields["in_pos_dec"]),
            exchange_attention=fields["n_attn"],
            mixture_size=vqgan["n_embed"],
            mixture_dim=vqgan["embed_dim"],
            generator_channels=generator["ch"],
            generator_mult=tuple(generator["ch_mult"]),
            generator_blocks=generator["num_res_blocks"] + 1,
            generator_attention=not fields["no_attn_vqgan"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"not a published configuration: {error}") from error


def infer_config(state_dict: Mapping[str, Tensor]) -> DLFConfig:
    """Our configuration from the names and shapes of a published checkpoint; ModelError if they are of another kind.

    All but the sizes of attention heads and windows can be seen there, and those never vary.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}

    def numbers(pattern: str) -> tuple[int, ...]:
        """The different numbers that a pattern with one group finds at the beginnings of names, rising."""
        found = {int(match[1]) for name in shapes if (match := re.match(pattern, name))}
        return tuple(sorted(found))

    def count(pattern: str) -> int:
        return len(numbers(pattern))

    codec, generator = "hybrid_codec", r"vqgan\.decoder"
    try:
        width = shapes[f"{codec}.latent_tokens"][1]
        exchange = {side: numbers(rf"{codec}\.{side}\.inter_blocks\.(\d+)\.") for side in ("encoder", "decoder")}
        at = f"{exchange['encoder'][0]}"
        levels, latent_dim = shapes[f"{codec}.quantize_feat.factorized_prior_vec"][:2]
        channels = [
            shapes[f"vqgan.decoder.up.{i}.block.0.conv1.weight"][0] for i in numbers(rf"{generator}\.up\.(\d+)\.")
        ]
        mixture_size, mixture_dim = shapes["vqgan.quantize.embedding.weight"]
        codebook_size, token_dim = shapes[f"{codec}.quantize.embedding.weight"]
        patch_px = shapes[f"{codec}.encoder.patch_embed.weight"][-1]
        return DLFConfig(
            tile_px=patch_px * math.isqrt(shapes[f"{codec}.encoder.positional_embedding"][0] - 1),
            patch_px=patch_px,
            head_dim=_HEAD_DIM,
            width=width,
            heads=width // _HEAD_DIM,
            encoder_layers=count(rf"{codec}\.encoder\.transformer\.(\d+)\."),
            decoder_layers=count(rf"{codec}\.decoder\.transformer\.(\d+)\."),
            tokens_per_tile=shapes[f"{codec}.latent_tokens"][0],
            token_dim=token_dim,
            codebook_size=codebook_size,
            detail_dim=shapes[f"{codec}.encoder.pix_emb_proj.weight"][0],
            latent_dim=latent_dim,
            levels=levels,
            swin_in=count(rf"{codec}\.encoder\.feat_in\.(\d+)\.norm_attn"),
            swin_out=count(rf"{codec}\.encoder\.feat_out\.0\.(\d+)\.norm_attn"),
            swin_up=count(rf"{codec}\.decoder\.init_feat_up\.2\.(\d+)\.norm_attn"),
            encoder_exchange=exchange["encoder"],
            decoder_exchange=exchange["decoder"],
            exchange_attention=count(rf"{codec}\.encoder\.inter_blocks\.{at}\.attn\.(\d+)\."),
            exchange_swin=count(rf"{codec}\.encoder\.feat_blocks\.{at}\.0\.(\d+)\."),
            exchange_convnext=count(rf"{codec}\.encoder\.feat_blocks\.{at}\.(\d+)\.layer_scale"),
            fusion_dim=shapes["prior_fusion.merge.3.weight"][0],
            fusion_swin_in=count(r"prior_fusion\.titok_in\.1\.(\d+)\."),
            fusion_swin=count(r"prior_fusion\.merge\.4\.(\d+)\."),
            mixture_size=mixture_size,
            mixture_dim=mixture_dim,
            generator_channels=channels[0],
            generator_mult=tuple(c // channels[0] for c in channels),
            generator_blocks=count(rf"{generator}\.up\.0\.block\.(\d+)\."),
            generator_attention="vqgan.decoder.mid.attn_1.norm.weight" in shapes,
        )
    except KeyError as error:
        raise ModelError(f"the checkpoint lacks tensor {error}") from error
    except (IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"the shapes in the checkpoint are not those of a DLF network: {error}") from error


# Our name -> published name, part by part; the first pattern that matches a whole prefix wins.
_PLACES = [
    (r"(encoder|decoder)\.class_token", r"hybrid_codec.\1.class_embedding"),
    (r"(encoder|decoder)\.position", r"hybrid_codec.\1.positional_embedding"),
    (r"(encoder|decoder)\.token_position", r"hybrid_codec.\1.latent_token_positional_embedding"),
    (r"(encoder|decoder)\.norm_in", r"hybrid_codec.\1.ln_pre"),
    (r"(encoder|decoder)\.norm_out", r"hybrid_codec.\1.ln_post"),
    (r"(encoder|decoder)\.layers\.(\d+)", r"hybrid_codec.\1.transformer.\2"),
    (r"(encoder|decoder)\.exchanges\.(\d+)\.blocks\.(\d+)", r"hybrid_codec.\1.inter_blocks.\2.attn.\3"),
    (r"(encoder|decoder)\.exchanges\.(\d+)", r"hybrid_codec.\1.inter_blocks.\2"),
    (r"(encoder|decoder)\.refinements\.(\d+)\.0\.(\d+)", r"hybrid_codec.\1.feat_blocks.\2.0.+\3"),
    (r"(encoder|decoder)\.refinements\.(\d+)\.(\d+)", r"hybrid_codec.\1.feat_blocks.\2.\3"),
    (r"encoder\.latent_tokens", "hybrid_codec.latent_tokens"),
    (r"encoder\.patch_embed", "hybrid_codec.encoder.patch_embed"),
    (r"encoder\.to_token", "hybrid_codec.encoder.conv_out"),
    (r"encoder\.to_detail", "hybrid_codec.encoder.pix_emb_proj"),
    (r"encoder\.detail_in\.(\d+)", r"hybrid_codec.encoder.feat_in.+\1"),
    (r"encoder\.detail_out\.(\d+)", r"hybrid_codec.encoder.feat_out.0.+\1"),
    (r"encoder\.detail_down", "hybrid_codec.encoder.feat_out.1"),
    (r"encoder\.detail_norm", "hybrid_codec.encoder.feat_out.3"),
    (r"encoder\.detail_project", "hybrid_codec.encoder.feat_out.4"),
    (r"decoder\.mask_token", "hybrid_codec.decoder.mask_token"),
    (r"decoder\.from_token", "hybrid_codec.decoder.decoder_embed"),
    (r"decoder\.detail_up", "hybrid_codec.decoder.init_feat_up"),
    (r"decoder\.detail_in\.(\d+)", r"hybrid_codec.decoder.init_feat_up.2.+\1"),
    (r"codebook\.entries", "hybrid_codec.quantize.embedding.weight"),
    (r"bottleneck\.encode_gain", "hybrid_codec.quantize_feat.enc_q"),
    (r"bottleneck\.decode_gain", "hybrid_codec.quantize_feat.dec_q"),
    (r"bottleneck\.encode_in", "hybrid_codec.quantize_feat.enc_trans_0"),
    (r"bottleneck\.encode_out", "hybrid_codec.quantize_feat.enc_trans_1"),
    (r"bottleneck\.decode_in", "hybrid_codec.quantize_feat.dec_trans_0"),
    (r"bottleneck\.decode_out", "hybrid_codec.quantize_feat.dec_trans_1"),
    (r"bottleneck\.prior\.vector", "hybrid_codec.quantize_feat.factorized_prior_vec"),
    (r"bottleneck\.prior\.first", "hybrid_codec.quantize_feat.y_prior_fusion"),
    (r"bottleneck\.prior\.reduce", "hybrid_codec.quantize_feat.y_spatial_prior_reduction"),
    (r"bottleneck\.prior\.adaptors\.(\d+)", r"hybrid_codec.quantize_feat.y_spatial_prior_adaptor_+\1"),
    (r"bottleneck\.prior\.spatial", "hybrid_codec.quantize_feat.y_spatial_prior"),
    (r"fusion\.semantic_in", "prior_fusion.titok_in.1"),
    (r"fusion\.detail_in", "prior_fusion.feat_in.1"),
    (r"fusion\.blocks", "prior_fusion.merge.4"),
    (r"fusion\.merge", "prior_fusion.merge"),
    (r"fusion\.head", "prior_fusion.ffn"),
    (r"mixture", "vqgan.quantize.embedding.weight"),
    (r"generator\.post_quant", "vqgan.post_quant_conv"),
    (r"generator", "vqgan.decoder"),
]
_BLOCKS: dict[type, list[tuple[str, str]]] = {
    VitBlock: [
        ("norm_attention", "ln_1"),
        ("norm_mlp", "ln_2"),
        (r"attention\.qkv\.", "attn.in_proj_"),
        (r"attention\.out", "attn.out_proj"),
        (r"mlp\.expand", "mlp.c_fc"),
        (r"mlp\.contract", "mlp.c_proj"),
    ],
    SwinBlock: [
        ("norm_attention", "norm_attn"),
        (r"attention\.bias", "attention_block.pos_embedding"),
        (r"attention\.qkv", "attention_block.to_qkv"),
        (r"attention\.out", "attention_block.to_out"),
        (r"mlp\.expand", "mlp_block.net.0"),
        (r"mlp\.contract", "mlp_block.net.2"),
    ],
    ConvNeXtBlock: [
        ("scale", "layer_scale"),
        ("depthwise", "conv"),
        (r"mlp\.expand", "mlp.0"),
        (r"mlp\.contract", "mlp.2"),
    ],
    DepthConvBlock: [
        ("conv1", "block.0.conv1.0"),
        ("depthwise", "block.0.depth_conv"),
        ("conv2", "block.0.conv2"),
        ("adaptor", "block.0.adaptor"),
        ("expand", "block.1.conv"),
        ("contract", "block.1.conv_out"),
    ],
    Exchange: [
        ("semantic_position", "titok_pos_emb"),
        ("detail_position", "feat_pos_emb"),
        ("compress", "titok_compress_proj"),
        ("decompress", "titok_decompress_proj"),
        ("semantic_add", "zero_add"),
        ("detail_add", "feat_add"),
    ],
    ResidualBlock: [("shortcut", "nin_shortcut")],
    MapAttention: [("out", "proj_out")],
    Upsample: [("conv", "upsample.conv")],
}


def load(state_dict: Mapping[str, Tensor], config: DLFConfig) -> DLF:
    """A model with the weights of a published `state_dict`, which is not copied where it is float32.

    Raises ModelError that names a tensor that is unknown, missing or of another shape.
    """
    with torch.device("meta"):
        model = DLF(config)
    names = published_names(model)
    known = {name for sources in names.values() for name in sources}
    for key in state_dict:
        if key not in known and not _IGNORED.match(key):
            raise ModelError(f"unknown tensor {key!r} in the checkpoint")
    given = {}
    for ours, expected in model.state_dict().items():
        parts = []
        for name in names[ours]:
            if name not in state_dict:
                raise ModelError(f"the checkpoint lacks tensor {name!r}")
            parts.append(state_dict[name])
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        if [n for n in tensor.shape if n != 1] != [n for n in expected.shape if n != 1]:  # 1x1 kernels may be linear
            raise ModelError(f"tensor {names[ours][0]!r} has shape {list(tensor.shape)}, not {list(expected.shape)}")
        given[ours] = tensor.reshape(expected.shape).float()
    model.load_state_dict(given, assign=True)
    return model.requires_grad_(False).eval()


def published_names(model: DLF) -> dict[str, tuple[str, ...]]:
    """For each of our parameters, the published tensors that it is made of, in the order of their joining."""
    kinds = {name: type(module) for name, module in model.named_modules() if type(module) in _BLOCKS}
    names = {}
    for ours in model.state_dict():
        block = max((name for name in kinds if ours.startswith(name + ".")), key=len, default="")
        rest = ours[len(block) + 1 :] if block else ""
        place = _generator_place(model.config, block, kinds[block]) if block.startswith("generator") else ""
        place = place or _translate(_PLACES, block or ours)
        for pattern, replacement in _BLOCKS[kinds[block]] if block else []:
            renamed, hits = re.subn(rf"^{pattern}(?![a-z])|^{pattern}(?<=\.)", replacement, rest)
            if hits:
                rest = renamed
                break
        name = f"{place}.{rest}" if block else place
        name = re.sub(r"\+(\d+)", lambda match: str(int(match[1]) + 1), name)  # counted from 1
        qkv = re.fullmatch(r"(vqgan\..*)\.qkv\.(weight|bias)", name)
        names[ours] = tuple(f"{qkv[1]}.{part}.{qkv[2]}" for part in "qkv") if qkv else (name,)
    return names


def _translate(rules: list[tuple[str, str]], name: str) -> str:
    for pattern, replacement in rules:
        renamed, hits = re.subn(rf"^{pattern}(?![a-z_])", replacement, name)
        if hits:
            return renamed
    raise ModelError(f"our parameter {name!r} has no published counterpart")


def _generator_place(config: DLFConfig, block: str, kind: type) -> str:
    """The published place of a block of the generator, where ours stand in one row per level."""
    part, *numbers = block.split(".")[1:]
    if part == "mid":
        return "vqgan.decoder.mid." + ("attn_1" if kind is MapAttention else f"block_{min(2, int(numbers[0]) + 1)}")
    coarsest = len(config.generator_mult) - 1
    level, position = coarsest - int(numbers[0]), int(numbers[1])
    if kind is Upsample:
        return f"vqgan.decoder.up.{level}"
    if config.generator_attention and level == coarsest:
        position //= 2
    return f"vqgan.decoder.up.{level}.{'attn' if kind is MapAttention else 'block'}.{position}"
