"""Qwen3 (2505.09388): Qwen2 with a norm on every query and key head instead of the biases."""

from __future__ import annotations

from msgspec.structs import replace

from edgedec.architecture import Architecture
from edgedec.models import _llama_like as like
from edgedec.models._config import Config
from edgedec.models._rope import rope
from edgedec.models._source import Source
from edgedec.models.qwen2 import sliding_layers

TINY = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 3,
    "attention_bias": False,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

HEAD_DIM, KV_HEADS = 128, 32
"""Where the config says nothing."""


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config."""
    limit = like.limit(config, context)
    attention = replace(
        like.attention(config, HEAD_DIM, KV_HEADS),
        biases=like.biases(config),
        qk_norm=like.rms(config),
        rope=rope(config, limit),
    )
    layers = list(sliding_layers(config, attention, limit))
    return like.decoder(config, layers, limit, like.Around("qwen3"))


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Every tensor under Llama's names."""
    return like.tensors(architecture)
