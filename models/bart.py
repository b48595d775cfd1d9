"""BART (1910.13461): norms after each part and after the embedding, learned positions."""

from __future__ import annotations

from edgedec.architecture import Architecture
from edgedec.models import _bart_like as like
from edgedec.models._config import Config
from edgedec.models._source import Source

TINY = {
    "model_type": "bart",
    "d_model": 48,
    "encoder_layers": 3,
    "encoder_ffn_dim": 80,
    "encoder_attention_heads": 4,
    "decoder_layers": 2,
    "decoder_ffn_dim": 64,
    "decoder_attention_heads": 3,
    "max_position_embeddings": 128,
    "activation_function": "gelu",
    "scale_embedding": True,
    "vocab_size": 112,
    "is_encoder_decoder": True,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}

KIND = like.Kind("bart", embed_norm=True)


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config; a position reads the table's row two places on."""
    return like.build(config, context, KIND)


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Every tensor under BART's names."""
    return like.tensors(architecture)
