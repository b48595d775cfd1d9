"""Marian (1804.00344), as the OPUS-MT translators are: BART's layers with computed positions.

The languages may have a vocabulary each.
"""

from __future__ import annotations

from edgedec.architecture import Architecture
from edgedec.models import _bart_like as like
from edgedec.models._config import Config
from edgedec.models._source import Source

TINY = {
    "model_type": "marian",
    "d_model": 48,
    "encoder_layers": 3,
    "encoder_ffn_dim": 80,
    "encoder_attention_heads": 4,
    "decoder_layers": 2,
    "decoder_ffn_dim": 80,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 128,
    "activation_function": "swish",
    "scale_embedding": True,
    "share_encoder_decoder_embeddings": False,
    "vocab_size": 120,
    "decoder_vocab_size": 112,
    "is_encoder_decoder": True,
    "eos_token_id": 0,
    "pad_token_id": 111,
    "decoder_start_token_id": 111,
}

KIND = like.Kind("marian", sinusoidal=True)


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config; norms stand after each part, none after the embedding."""
    return like.build(config, context, KIND)


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Every tensor under BART's names."""
    return like.tensors(architecture)
