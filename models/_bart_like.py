"""What the descendants of BART share: Marian and Pegasus are BART with other norms and positions.

Functions to pick from; a family file says what it takes and what it does differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from msgspec.structs import replace

from edgedec.architecture import (
    Architecture,
    Attention,
    Embedding,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Positions,
    Stack,
)
from edgedec.errors import CheckpointError
from edgedec.models import _llama_like as like
from edgedec.models._config import Config
from edgedec.models._source import Find, Floats, Shape, Source, Table, rename, twin

EPS = 1e-5
"""Of every LayerNorm; no config says it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the families differ in."""

    family: str
    norm_first: bool = False
    sinusoidal: bool = False
    embed_norm: bool = False


def build(config: Config, context: int | None, kind: Kind) -> Architecture:
    """The whole model. With embeddings that are not shared the encoder has a table of its own."""
    limit = like.limit(config, context)
    _expect_what_is_built(config, kind)
    dim = config.size("d_model")
    scale = dim**0.5 if config.take("scale_embedding", bool, False) else 1.0
    read = config.size("vocab_size")
    shared = config.take("share_encoder_decoder_embeddings", bool, True)
    vocab = config.size("decoder_vocab_size", read)
    if shared and vocab != read:
        config.refuse("decoder_vocab_size", f"with shared embeddings it must be {read}")
    return Architecture(
        family=kind.family,
        embed=Embedding(vocab=vocab, dim=dim, scale=scale),
        source_embed=None if shared else Embedding(vocab=read, dim=dim, scale=scale),
        encoder=_stack(config, "encoder", kind),
        decoder=_stack(config, "decoder", kind),
        head=Head(tied=True, bias=True),
        tokens=like.tokens(config, vocab, start=True),
        limits=Limits(context=limit, source=config.size("max_position_embeddings")),
    )


def tensors(architecture: Architecture) -> dict[str, Source]:
    """Their names. Tables that are computed, and a bias of zeros, need not be in a checkpoint."""
    outer: dict[str, str | tuple[str, Find]] = {"head.bias": ("final_logits_bias", _head_bias)}
    for side, stack in (("encoder", architecture.encoder), ("decoder", architecture.decoder)):
        if stack is not None and stack.positions is not None:
            computed = stack.positions.kind == "sinusoidal"
            find = _positions if computed else Source
            outer[f"{side}.positions"] = (f"model.{side}.embed_positions.weight", find)
        outer[f"{side}.embed_norm"] = f"model.{side}.layernorm_embedding"
        outer[f"{side}.final_norm"] = f"model.{side}.layer_norm"
    tables = [f"model.{side}.embed_tokens" for side in ("encoder", "decoder")]
    if architecture.source_embed is None:
        copies = (*(f"{table}.weight" for table in tables), "lm_head.weight")
        outer["embed"] = ("model.shared", twin(*copies))
    else:
        outer["encoder.embed"] = tables[0]
        outer["embed"] = (tables[1], twin("lm_head.weight"))
    prefix = "model.{}.layers.{{}}."
    return rename(
        architecture, prefix.format("decoder"), LAYER, outer, (prefix.format("encoder"), LAYER)
    )


LAYER: Table = {
    "self_attention_norm": "self_attn_layer_norm",
    "cross_attention_norm": "encoder_attn_layer_norm",
    **{
        f"{ours}.{name}": f"{theirs}.{stored}"
        for ours, theirs in (("self_attention", "self_attn"), ("cross_attention", "encoder_attn"))
        for name, stored in zip("qkvo", ("q_proj", "k_proj", "v_proj", "out_proj"), strict=True)
    },
    "mlp_norm": "final_layer_norm",
    "mlp.up": "fc1",
    "mlp.down": "fc2",
}


def sinusoids(count: int, dim: int) -> Floats:
    """[count, dim]: sines in the first half, cosines in the second, at dim / 2 frequencies."""
    place = np.arange(dim)
    angles = np.arange(count)[:, None] / np.power(10000.0, 2 * (place // 2) / dim)
    return np.concatenate([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])], 1).astype(np.float32)


def _expect_what_is_built(config: Config, kind: Kind) -> None:
    """Fields of the code that came before transformers; its models ignore them."""
    config.expect("is_encoder_decoder", True)
    config.expect("tie_word_embeddings", True)
    config.expect("add_bias_logits", False)
    config.expect("normalize_before", kind.norm_first)
    config.expect("add_final_layer_norm", kind.norm_first)
    config.expect("normalize_embedding", kind.embed_norm)
    config.expect("static_position_embeddings", kind.sinusoidal)
    for name in ("extra_pos_embeddings", "num_hidden_layers", "replacing_rate"):
        config.find(name, int)
    for name in ("student_encoder_layers", "student_decoder_layers"):
        config.items(name, int)
    config.find("force_bos_token_to_be_generated", bool)  # transformers 3; see forced_bos_token_id


def _stack(config: Config, side: str, kind: Kind) -> Stack:
    norm = Norm(kind="layer", eps=EPS, bias=True)
    heads, dim = config.size(f"{side}_attention_heads"), config.size("d_model")
    if dim % heads:
        raise CheckpointError(f"{config.place}: d_model {dim} does not divide by {heads} heads")
    across = Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=dim // heads,
        scale=(dim // heads) ** -0.5,
        biases=("q", "k", "v", "o"),
        causal=False,
    )
    decodes = side == "decoder"
    layer = Layer(
        self_attention=replace(across, causal=decodes),
        cross_attention=across if decodes else None,
        mlp=Mlp(
            width=config.size(f"{side}_ffn_dim"),
            activation=config.choice("activation_function", like.ACTIVATIONS, "gelu"),
            gated=False,
            bias=True,
        ),
        norm=norm,
        norm_order="pre" if kind.norm_first else "post",
    )
    return Stack(
        layers=(layer,) * like.layer_count(config, f"{side}_layers"),
        positions=Positions(
            kind="sinusoidal" if kind.sinusoidal else "learned",
            count=config.size("max_position_embeddings"),
            offset=0 if kind.sinusoidal else 2,
        ),
        embed_norm=norm if kind.embed_norm else None,
        final_norm=norm if kind.norm_first else None,
    )


def _positions(name: str, shape: Shape) -> Source:
    return Source(name, shape, make=partial(sinusoids, *shape))


def _head_bias(name: str, shape: Shape) -> Source:
    return Source(
        name, (1, *shape), take=lambda stored: stored[0], make=lambda: np.zeros(shape, np.float32)
    )
