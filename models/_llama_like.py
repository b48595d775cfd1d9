"""What the descendants of Llama share: reading sizes, gated layers, and tensor names.

Functions to pick from; a family file says what it takes and what it does differently.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edgedec.architecture import (
    MAX_LAYERS,
    Architecture,
    Attention,
    Embedding,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Stack,
    Tokens,
)
from edgedec.errors import CheckpointError, UsageError
from edgedec.models._config import Config
from edgedec.models._source import Source, Table, rename, twin

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]

MAX_HEAD_DIM = 1 << 16
"""Angles are computed before any weight is looked at; a damaged config must not ask for 2^31."""

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}

LAYER: Table = {
    "self_attention_norm": "input_layernorm",
    "self_attention.q": "self_attn.q_proj",
    "self_attention.k": "self_attn.k_proj",
    "self_attention.v": "self_attn.v_proj",
    "self_attention.o": "self_attn.o_proj",
    "self_attention.q_norm": "self_attn.q_norm",
    "self_attention.k_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def limit(config: Config, context: int | None, field: str = "max_position_embeddings") -> int:
    """The context to export: what was asked for, or all that the model was made for.

    Raises:
        UsageError: more was asked for than the model has.
    """
    longest = config.size(field)
    if context is not None and not 1 <= context <= longest:
        raise UsageError(f"a context of {context} tokens: this model takes 1 to {longest}")
    return context or longest


def layer_count(config: Config, field: str = "num_hidden_layers") -> int:
    """L; a damaged config must not ask for a billion."""
    return config.size(field, most=MAX_LAYERS)


def attention(
    config: Config, head_dim: int | None = None, kv_heads: int | None = None
) -> Attention:
    """Grouped-query attention without biases, positions or window, scaled by 1 / sqrt(d).

    d is the config's, or the family's `head_dim`, or D / H; G where the config does not say is
    the family's `kv_heads`, or H.
    """
    dim, heads = config.size("hidden_size"), config.size("num_attention_heads")
    stated = config.states("num_key_value_heads")
    kv_heads = config.size("num_key_value_heads", heads if stated else kv_heads or heads)
    width = config.size("head_dim", head_dim or dim // heads)
    if head_dim is None and "head_dim" not in config and dim % heads:
        raise CheckpointError(
            f"{config.place}: hidden_size {dim} does not divide by num_attention_heads {heads}"
        )
    if width > MAX_HEAD_DIM:
        raise CheckpointError(f"{config.place}: heads of {width} dimensions are not believable")
    return Attention(heads=heads, kv_heads=kv_heads, head_dim=width, scale=width**-0.5)


def biases(config: Config, default: bool = False) -> tuple[Literal["q", "k", "v", "o"], ...]:
    """All four or none, by `attention_bias`."""
    return ("q", "k", "v", "o") if config.take("attention_bias", bool, default) else ()


def mlp(config: Config, field: str = "hidden_act", default: str = "silu") -> Mlp:
    """The gated feed-forward step, with biases if `mlp_bias`."""
    return Mlp(
        width=config.size("intermediate_size"),
        activation=config.choice(field, ACTIVATIONS, default),
        gated=True,
        bias=config.take("mlp_bias", bool, False),
    )


def rms(config: Config, default: float = 1e-6, offset: float = 0.0) -> Norm:
    """RMSNorm."""
    return Norm(kind="rms", eps=config.positive("rms_norm_eps", default), offset=offset)


def window(config: Config, context: int, default: int | None = None) -> int | None:
    """The sliding window; None where it is not shorter than the context."""
    size = default if not config.states("sliding_window") else None
    if config.find("sliding_window", int) is not None:
        size = config.size("sliding_window")
    return size if size is not None and size < context else None


def sliding(config: Config, otherwise: Iterable[bool]) -> tuple[bool, ...]:
    """Which layers slide: `layer_types`, or `otherwise` where the config has none."""
    kinds = {"full_attention": False, "sliding_attention": True}
    count = layer_count(config)
    if not config.items("layer_types", str):
        return tuple(otherwise)
    return tuple(
        kinds[name] if name in kinds else config.refuse("layer_types", f"supported: {list(kinds)}")
        for name in config.items("layer_types", str, count)
    )


def tokens(config: Config, vocab: int, start: bool = False) -> Tokens:
    """The ids that mean something; those outside the vocabulary cannot occur and are left out.

    `start`: also the one that the decoder of an encoder-decoder model begins with.
    """

    def valid(name: str) -> tuple[int, ...]:
        return tuple(i for i in config.ids(name) if 0 <= i < vocab)

    def first(name: str) -> int | None:
        return next(iter(valid(name)), None)

    return Tokens(
        eos=valid("eos_token_id"),
        bos=first("bos_token_id"),
        pad=first("pad_token_id"),
        decoder_start=first("decoder_start_token_id") if start else None,
    )


@dataclass(frozen=True, slots=True)
class Around:
    """What differs around the layers."""

    family: str
    tied: bool = False
    embed_scale: float = 1.0
    softcap: float | None = None


def decoder(config: Config, layers: Iterable[Layer], context: int, around: Around) -> Architecture:
    """The whole model: embedding, layers, a final norm like that of the layers, head."""
    stack = tuple(layers)
    vocab = config.size("vocab_size")
    return Architecture(
        family=around.family,
        embed=Embedding(vocab=vocab, dim=config.size("hidden_size"), scale=around.embed_scale),
        decoder=Stack(layers=stack, final_norm=stack[-1].norm),
        head=Head(
            tied=config.take("tie_word_embeddings", bool, around.tied), softcap=around.softcap
        ),
        tokens=tokens(config, vocab),
        limits=Limits(context=context),
    )


def tensors(architecture: Architecture, layer: Table = LAYER) -> dict[str, Source]:
    """The sources under Llama's names; `layer` where a family calls its layers differently."""
    embed = "model.embed_tokens"
    outer: Table = {
        "embed": (embed, twin("lm_head.weight")) if architecture.head.tied else embed,
        "decoder.final_norm": "model.norm",
        "head": "lm_head",
    }
    return rename(architecture, "model.layers.{}.", layer, outer)
