"""Mistral 7B (2310.06825): Llama with a sliding window in every layer, or none."""

from __future__ import annotations

from msgspec.structs import replace

from edgedec.architecture import Architecture, Layer
from edgedec.models import _llama_like as like
from edgedec.models._config import Config
from edgedec.models._rope import rope
from edgedec.models._source import Source

TINY = {
    "model_type": "mistral",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": 24,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

KV_HEADS, WINDOW = 8, 4096
"""Where the config says nothing. Null is something: H key/value heads, no window."""


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config; the head width need not be D / H."""
    limit = like.limit(config, context)
    attention = replace(
        like.attention(config, kv_heads=KV_HEADS),
        rope=rope(config, limit),
        window=like.window(config, limit, WINDOW),
    )
    layer = Layer(self_attention=attention, mlp=like.mlp(config), norm=like.rms(config))
    layers = (layer,) * like.layer_count(config)
    return like.decoder(config, layers, limit, like.Around("mistral"))


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Every tensor under Llama's names."""
    return like.tensors(architecture)
