"""T5Gemma (2504.06225): two Gemma 2 models, the second with cross-attention to the first.

Sandwich norms, soft caps, every other layer with a window. Each side has an embedding of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from edgedec.architecture import (
    Architecture,
    Embedding,
    Head,
    Layer,
    Limits,
    Stack,
    Tokens,
)
from edgedec.errors import CheckpointError
from edgedec.models import _llama_like as like
from edgedec.models._config import Config
from edgedec.models._rope import rope
from edgedec.models._source import Source, Table, rename, twin

SIDE = {
    "model_type": "t5_gemma_module",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "query_pre_attn_scalar": 24,
    "sliding_window": 20,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
    "vocab_size": 112,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
TINY = {
    "model_type": "t5gemma",
    "encoder": {**SIDE, "num_hidden_layers": 4, "vocab_size": 120, "sliding_window": 12},
    "decoder": {**SIDE, "is_decoder": True},
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}

HEAD_DIM, KV_HEADS, WINDOW, QUERY_SCALAR = 256, 4, 4096, 256
SCORE_CAP, LOGIT_CAP = 50.0, 30.0
"""Where the config says nothing."""

LAYER: Table = {
    **like.LAYER,
    "self_attention_norm": "pre_self_attn_layernorm",
    "self_attention_post_norm": "post_self_attn_layernorm",
    "cross_attention_norm": "pre_cross_attn_layernorm",
    "cross_attention_post_norm": "post_cross_attn_layernorm",
    **{f"cross_attention.{name}": f"cross_attn.{name}_proj" for name in "qkvo"},
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config and the two in it.

    Raises:
        UnsupportedError: the sides have different widths; the cross-attention would need both.
    """
    config.expect("is_encoder_decoder", True)
    config.find("vocab_size", int)
    encoder, decoder = _side(config, "encoder"), _side(config, "decoder")
    dim, other = decoder.size("hidden_size"), encoder.size("hidden_size")
    if dim != other:
        decoder.refuse("hidden_size", f"the encoder has {other}: only equal widths are supported")
    limit = like.limit(decoder, context)
    longest = encoder.size("max_position_embeddings")
    vocab = decoder.size("vocab_size")
    encoder.find("final_logit_softcapping", float)  # it has no head
    return Architecture(
        family="t5gemma",
        embed=Embedding(vocab=vocab, dim=dim, scale=dim**0.5),
        source_embed=Embedding(vocab=encoder.size("vocab_size"), dim=dim, scale=dim**0.5),
        encoder=_stack(_layers(encoder, longest)),
        decoder=_stack(_layers(decoder, limit, decodes=True)),
        head=Head(
            tied=config.take("tie_word_embeddings", bool, True),
            softcap=_cap(decoder, "final_logit_softcapping", LOGIT_CAP),
        ),
        tokens=_tokens(config, decoder, vocab),
        limits=Limits(context=limit, source=longest),
    )


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Gemma's names, once for each side."""
    embed = "model.decoder.embed_tokens"
    outer: Table = {
        "embed": (embed, twin("lm_head.out_proj.weight")) if architecture.head.tied else embed,
        "encoder.embed": "model.encoder.embed_tokens",
        "encoder.final_norm": "model.encoder.norm",
        "decoder.final_norm": "model.decoder.norm",
        "head": "lm_head.out_proj",
    }
    encoder = ("model.encoder.layers.{}.", LAYER)
    return rename(architecture, "model.decoder.layers.{}.", LAYER, outer, encoder)


def _side(config: Config, name: str) -> Config:
    side = config.section(name)
    if side is None:
        raise CheckpointError(f"{config.place} has no {name}, which this model type needs")
    side.find("tie_word_embeddings", bool)  # the outer one counts
    side.find("cross_attention_hidden_size", int)
    like.tokens(side, side.size("vocab_size"))
    return side


def _stack(layers: Iterator[Layer]) -> Stack:
    stack = tuple(layers)
    return Stack(layers=stack, final_norm=stack[-1].norm)


def _layers(side: Config, limit: int, decodes: bool = False) -> Iterator[Layer]:
    norm = like.rms(side, offset=1.0)
    across = replace(
        like.attention(side, HEAD_DIM, KV_HEADS),
        scale=side.positive("query_pre_attn_scalar", QUERY_SCALAR) ** -0.5,
        biases=like.biases(side),
        softcap=_cap(side, "attn_logit_softcapping", SCORE_CAP),
        causal=False,
    )
    full = replace(across, rope=rope(side, limit), causal=decodes)
    sliding = replace(full, window=_window(side, limit, decodes))
    mlp = like.mlp(side, "hidden_activation", "gelu_pytorch_tanh")
    every_other = (index % 2 == 0 for index in range(like.layer_count(side)))
    for slides in like.sliding(side, every_other):
        yield Layer(
            self_attention=sliding if slides else full,
            cross_attention=across if decodes else None,
            mlp=mlp,
            norm=norm,
            norm_order="sandwich",
        )


def _window(side: Config, limit: int, decodes: bool) -> int | None:
    """An encoder's window is counted to each side without the row itself, a decoder's with it."""
    if decodes:
        return like.window(side, limit, WINDOW)
    reach = like.window(side, limit - 1, WINDOW)
    return None if reach is None else reach + 1


def _cap(side: Config, name: str, default: float) -> float | None:
    """A null is no cap, a missing field the family's."""
    if side.states(name) and name not in side:
        side.find(name, float)
        return None
    return side.positive(name, default)


def _tokens(config: Config, decoder: Config, vocab: int) -> Tokens:
    """The outer ids, else the decoder's; a text begins with bos where nothing else is said."""
    outer, inner = like.tokens(config, vocab, start=True), like.tokens(decoder, vocab)
    bos = inner.bos if outer.bos is None else outer.bos
    return Tokens(
        eos=outer.eos or inner.eos,
        bos=bos,
        pad=inner.pad if outer.pad is None else outer.pad,
        decoder_start=bos if outer.decoder_start is None else outer.decoder_start,
    )
