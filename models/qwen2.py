"""Qwen2 and Qwen2.5 (2407.10671): Llama with biases on q, k and v; upper layers may slide."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from edgedec.architecture import Architecture, Attention, Layer
from edgedec.models import _llama_like as like
from edgedec.models._config import Config
from edgedec.models._rope import rope
from edgedec.models._source import Source

TINY = {
    "model_type": "qwen2",
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 100000.0,
    "use_sliding_window": True,
    "sliding_window": 24,
    "max_window_layers": 1,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

KV_HEADS, WINDOW = 32, 4096
"""Where the config says nothing."""


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config; the biases are always there."""
    limit = like.limit(config, context)
    attention = replace(
        like.attention(config, kv_heads=KV_HEADS), biases=("q", "k", "v"), rope=rope(config, limit)
    )
    layers = list(sliding_layers(config, attention, limit))
    return like.decoder(config, layers, limit, like.Around("qwen2"))


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Every tensor under Llama's names."""
    return like.tensors(architecture)


def sliding_layers(config: Config, attention: Attention, limit: int) -> Iterator[Layer]:
    """The layers; with `use_sliding_window` those from `max_window_layers` on slide."""
    window = like.window(config, limit, WINDOW)
    slides = config.take("use_sliding_window", bool, False)
    full = config.take("max_window_layers", int, 28)
    count = like.layer_count(config)
    for slide in like.sliding(config, [slides and i >= full for i in range(count)]):
        windowed = replace(attention, window=window if slides and slide else None)
        yield Layer(self_attention=windowed, mlp=like.mlp(config), norm=like.rms(config))
