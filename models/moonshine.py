"""Moonshine (2410.15608): samples through three convolutions, then rotary encoder and decoder."""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from edgedec.architecture import (
    Architecture,
    Attention,
    Conv,
    Embedding,
    Frontend,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Stack,
)
from edgedec.models import _llama_like as like
from edgedec.models._config import Config
from edgedec.models._rope import Fields, rope
from edgedec.models._source import Find, Source, Table, rename, twin

TINY = {
    "model_type": "moonshine",
    "is_encoder_decoder": True,
    "hidden_size": 48,
    "intermediate_size": 96,
    "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 3,
    "encoder_num_attention_heads": 4,
    "decoder_num_attention_heads": 4,
    "encoder_num_key_value_heads": 4,
    "decoder_num_key_value_heads": 4,
    "encoder_hidden_act": "gelu",
    "decoder_hidden_act": "silu",
    "pad_head_dim_to_multiple_of": 8,
    "partial_rotary_factor": 0.9,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "max_position_embeddings": 128,
    "vocab_size": 112,
    "decoder_start_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

LONGEST = 64 * 16_000
"""Samples that the encoder may be given: over a minute its authors do not vouch for it."""

EPS = 1e-5
ROPE = Fields(default_fraction=0.9)

LAYER: Table = {**like.LAYER, "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config; heads are as many on both sides, as in every published checkpoint."""
    # It fills heads up with zeros for other hardware, which changes no number.
    config.find("pad_head_dim_to_multiple_of", int)
    config.expect("is_encoder_decoder", True)
    limit = like.limit(config, context)
    dim, vocab = config.size("hidden_size"), config.size("vocab_size")
    attention = replace(
        _attention(config), rope=replace(rope(config, limit, ROPE), layout="interleaved")
    )
    norm = Norm(kind="layer", eps=EPS)
    heard = Layer(
        self_attention=replace(attention, causal=False), mlp=_mlp(config, "encoder"), norm=norm
    )
    said = Layer(
        self_attention=attention,
        cross_attention=replace(attention, rope=None, causal=False),
        mlp=_mlp(config, "decoder"),
        norm=norm,
    )
    return Architecture(
        family="moonshine",
        embed=Embedding(vocab=vocab, dim=dim),
        encoder=Stack(
            layers=(heard,) * like.layer_count(config, "encoder_num_hidden_layers"),
            final_norm=norm,
        ),
        decoder=Stack(
            layers=(said,) * like.layer_count(config, "decoder_num_hidden_layers"),
            final_norm=norm,
        ),
        head=Head(tied=config.take("tie_word_embeddings", bool, True)),
        tokens=like.tokens(config, vocab, start=True),
        limits=Limits(context=limit, source=LONGEST),
        frontend=_frontend(dim),
    )


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Their names; in the decoder one matrix holds up, then gate."""
    decoder: Table = {
        **LAYER,
        **{f"cross_attention.{each}": f"encoder_attn.{each}_proj" for each in "qkvo"},
        "cross_attention_norm": "post_attention_layernorm",
        "mlp_norm": "final_layernorm",
        "mlp.up": ("mlp.fc1", _half(0)),
        "mlp.gate": ("mlp.fc1", _half(1)),
    }
    embed = "model.decoder.embed_tokens"
    outer: Table = {
        "embed": (embed, twin("proj_out.weight")) if architecture.head.tied else embed,
        "head": "proj_out",
        "frontend.0.kernel": "model.encoder.conv1.weight",
        "frontend.0.norm": "model.encoder.groupnorm",
        "frontend.1.kernel": "model.encoder.conv2.weight",
        "frontend.1.bias": "model.encoder.conv2.bias",
        "frontend.2.kernel": "model.encoder.conv3.weight",
        "frontend.2.bias": "model.encoder.conv3.bias",
        "encoder.final_norm": "model.encoder.layer_norm",
        "decoder.final_norm": "model.decoder.norm",
    }
    layers = "model.decoder.layers.{}.", "model.encoder.layers.{}."
    return rename(architecture, layers[0], decoder, outer, (layers[1], LAYER))


def _attention(config: Config) -> Attention:
    """transformers itself runs only configs whose four numbers of heads are one."""
    heads = config.size("decoder_num_attention_heads", 8)
    defaults = {
        "encoder_num_attention_heads": 8,
        "encoder_num_key_value_heads": heads,
        "decoder_num_key_value_heads": heads,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
    }
    for name, default in defaults.items():
        if config.size(name, default) != heads:
            config.refuse(name, f"it must be that of the decoder's heads, {heads}")
    dim = config.size("hidden_size")
    if dim % heads:
        config.refuse("hidden_size", f"it must divide by the number of heads, {heads}")
    biases: tuple[Literal["q", "k", "v"], ...] = ("q", "k", "v")
    return Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=dim // heads,
        scale=(dim // heads) ** -0.5,
        biases=biases if config.take("attention_bias", bool, False) else (),
    )


def _mlp(config: Config, side: Literal["encoder", "decoder"]) -> Mlp:
    gated = side == "decoder"
    return Mlp(
        width=config.size("intermediate_size"),
        activation=config.choice(
            f"{side}_hidden_act", like.ACTIVATIONS, "silu" if gated else "gelu"
        ),
        gated=gated,
        bias=True,
    )


def _frontend(dim: int) -> Frontend:
    return Frontend(
        kind="waveform",
        features=1,
        convs=(
            Conv(
                channels=dim, kernel=127, stride=64, bias=False, activation="tanh", group_norm=1e-5
            ),
            Conv(channels=2 * dim, kernel=7, stride=3),
            Conv(channels=dim, kernel=3, stride=2),
        ),
    )


def _half(part: int) -> Find:
    def find(name: str, shape: tuple[int, ...]) -> Source:
        rows = part * shape[0], (part + 1) * shape[0]
        return Source(name, (2 * shape[0], *shape[1:]), rows=rows)

    return find
