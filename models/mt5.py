"""mT5 (2010.11934): T5 version 1.1, whose head is never scaled, and hardly ever tied."""

from __future__ import annotations

from edgedec.architecture import Architecture
from edgedec.models import t5
from edgedec.models._config import Config
from edgedec.models._source import Source

TINY = {
    "model_type": "mt5",
    "d_model": 48,
    "d_kv": 16,
    "d_ff": 80,
    "num_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
    "vocab_size": 112,
    "tie_word_embeddings": False,
    "is_encoder_decoder": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config. What it says about tying is not believed: transformers 5 always says yes."""
    config.find("tie_word_embeddings", bool)
    return t5.build(config, context, "mt5", tied=False, feeds="gated-gelu")


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """T5's names."""
    return t5.tensors(architecture, config)
