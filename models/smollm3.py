"""SmolLM3: Llama in which every fourth layer has no positions (NoPE, 2305.19466)."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from edgedec.architecture import Architecture, Layer
from edgedec.models import _llama_like as like
from edgedec.models._config import Config
from edgedec.models._rope import Fields, rope
from edgedec.models._source import Source

TINY = {
    "model_type": "smollm3",
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 50000.0,
    "no_rope_layers": [1, 0, 1, 0],
    "use_sliding_window": True,
    "sliding_window": 20,
    "layer_types": [
        "full_attention",
        "sliding_attention",
        "full_attention",
        "full_attention",
    ],
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

ROPE = Fields(default_theta=2000000.0)
KV_HEADS = 4
"""Where the config says nothing."""


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config; which layers have positions and which slide are two lists."""
    limit = like.limit(config, context)
    layers = _layers(config, limit)
    return like.decoder(config, layers, limit, like.Around("smollm3", tied=True))


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Every tensor under Llama's names."""
    return like.tensors(architecture)


def _layers(config: Config, limit: int) -> Iterator[Layer]:
    plain = replace(like.attention(config, kv_heads=KV_HEADS), biases=like.biases(config))
    turned = rope(config, limit, ROPE)
    window = like.window(config, limit)
    config.find("max_window_layers", int)
    turns = _turns(config)
    slides = config.take("use_sliding_window", bool, False)
    sliding = like.sliding(config, [slides and not turn for turn in turns])
    for turn, slide in zip(turns, sliding, strict=True):
        attention = replace(
            plain, rope=turned if turn else None, window=window if slides and slide else None
        )
        yield Layer(self_attention=attention, mlp=like.mlp(config), norm=like.rms(config))


def _turns(config: Config) -> list[bool]:
    """Which layers have rotary positions: 1 in `no_rope_layers`, despite its name."""
    count = like.layer_count(config)
    interval = config.size("no_rope_layer_interval", 4)
    if config.items("no_rope_layers", int):
        return [bool(flag) for flag in config.items("no_rope_layers", int, count)]
    return [(index + 1) % interval != 0 for index in range(count)]
