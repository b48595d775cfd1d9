"""T5 (1910.10683) and what is built like it: FLAN-T5, ByT5, CodeT5, CodeT5+ up to 770M.

RMSNorm before, no biases, no scale on the scores, a learned bias by distance that a stack's layers
share. The first T5 ties its head to the table and scales what goes into it; version 1.1 does
neither.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from edgedec.architecture import (
    MAX_LAYERS,
    Architecture,
    Attention,
    BiasTable,
    Embedding,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Stack,
)
from edgedec.errors import CheckpointError, UsageError
from edgedec.models import _llama_like as like
from edgedec.models._config import Config
from edgedec.models._source import Shape, Source, Table, rename, twin

TINY = {
    "model_type": "t5",
    "d_model": 48,
    "d_kv": 16,
    "d_ff": 80,
    "num_layers": 4,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 12,
    "relative_attention_max_distance": 30,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "vocab_size": 112,
    "n_positions": 512,
    "tie_word_embeddings": True,
    "is_encoder_decoder": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}

USUAL, LONGEST = 2048, 1 << 15
"""Tokens on either side, if not said otherwise, and at most: distances have no end of their own."""


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config; `scale_decoder_outputs` is how transformers 5 writes an untied head down."""
    tied = config.take("tie_word_embeddings", bool, True)
    tied = config.take("scale_decoder_outputs", bool, tied)
    return build(config, context, "t5", tied)


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Their names: a block's layers are attention, cross-attention (decoder), feed-forward."""
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    if architecture.head.tied:
        copies.append("lm_head.weight")
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    outer: Table = {
        "embed": ("shared", twin(*copies)),
        "encoder.bias_table": f"encoder.{bias}",
        "decoder.bias_table": f"decoder.{bias}",
        "encoder.final_norm": "encoder.final_layer_norm",
        "decoder.final_norm": "decoder.final_layer_norm",
        "head": ("lm_head", _head),
    }
    gated = architecture.decoder.layers[0].mlp.gated
    encoder, decoder = _layer(("SelfAttention",), gated), _layer(_BOTH, gated)
    return rename(architecture, "decoder.block.{}.", decoder, outer, ("encoder.block.{}.", encoder))


def build(
    config: Config, context: int | None, family: str, tied: bool, feeds: str = "relu"
) -> Architecture:
    """A T5 of any kind; a `tied` head is a scaled one, `feeds` the usual feed-forward step."""
    config.expect("is_encoder_decoder", True)
    dim, vocab = config.size("d_model"), config.size("vocab_size")
    config.find("n_positions", int)  # what it was trained on; nothing depends on it
    if context is not None and not 1 <= context <= LONGEST:
        raise UsageError(f"a context of {context} tokens: this model takes 1 to {LONGEST}")
    norm = Norm(kind="rms", eps=config.positive("layer_norm_epsilon", 1e-6))
    reads, writes = _attention(config, True), _attention(config, False)
    across = replace(reads, bias_table=None)
    one = Layer(self_attention=reads, mlp=_mlp(config, feeds), norm=norm)
    other = replace(one, self_attention=writes, cross_attention=across)
    count = like.layer_count(config, "num_layers")
    written = config.size("num_decoder_layers", count, MAX_LAYERS)
    return Architecture(
        family=family,
        embed=Embedding(vocab=vocab, dim=dim),
        encoder=Stack(layers=(one,) * count, final_norm=norm),
        decoder=Stack(layers=(other,) * written, final_norm=norm),
        head=Head(tied=tied, scale=dim**-0.5 if tied else 1.0),
        tokens=like.tokens(config, vocab, start=True),
        limits=Limits(context=context or USUAL, source=context or USUAL),
    )


_BOTH = ("SelfAttention", "EncDecAttention")
_OURS = {"SelfAttention": "self_attention", "EncDecAttention": "cross_attention"}


def _layer(attentions: Iterable[str], gated: bool) -> Table:
    table: dict[str, str] = {}
    place = 0
    for place, theirs in enumerate(attentions):
        ours, prefix = _OURS[theirs], f"layer.{place}"
        table[f"{ours}_norm"] = f"{prefix}.layer_norm"
        table |= {f"{ours}.{name}": f"{prefix}.{theirs}.{name}" for name in "qkvo"}
    prefix = f"layer.{place + 1}"
    table |= {
        "mlp_norm": f"{prefix}.layer_norm",
        "mlp.gate": f"{prefix}.DenseReluDense.wi_0",
        "mlp.up": f"{prefix}.DenseReluDense.{'wi_1' if gated else 'wi'}",
        "mlp.down": f"{prefix}.DenseReluDense.wo",
    }
    return table


def _attention(config: Config, both: bool) -> Attention:
    heads = config.size("num_heads")
    table = BiasTable(
        buckets=config.size("relative_attention_num_buckets", 32),
        max_distance=config.size("relative_attention_max_distance", 128),
        bidirectional=both,
    )
    exact = table.buckets // (4 if both else 2)
    if exact < 1 or table.max_distance <= exact:
        raise CheckpointError(
            f"{config.place}: {table.buckets} buckets up to a distance of {table.max_distance} "
            "make no bias"
        )
    return Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=config.size("d_kv", 64, like.MAX_HEAD_DIM),
        scale=1.0,
        bias_table=table,
        causal=not both,
    )


def _mlp(config: Config, usual: str) -> Mlp:
    """`feed_forward_proj` is an activation, with "gated-" before it if gated."""
    gated, _, named = config.take("feed_forward_proj", str, usual).rpartition("-")
    if gated not in ("", "gated"):
        config.refuse("feed_forward_proj", "supported: an activation, or gated-ACTIVATION")
    if config.take("is_gated_act", bool, bool(gated)) != bool(gated):
        config.refuse("is_gated_act", "feed_forward_proj says something else")
    named = "gelu_new" if gated and named == "gelu" else named
    if named not in like.ACTIVATIONS:
        config.refuse("feed_forward_proj", f"supported: {', '.join(sorted(like.ACTIVATIONS))}")
    return Mlp(
        width=config.size("d_ff"),
        activation=config.choice("dense_act_fn", like.ACTIVATIONS, named),
        gated=bool(gated),
    )


def _head(name: str, shape: Shape) -> Source:
    """A head of its own; transformers 5 leaves out one that happens to be the table."""
    return Source(name, shape, spare="shared.weight")
