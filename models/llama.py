"""Llama 2 and 3.x (2302.13971, 2407.21783), TinyLlama, SmolLM2, MobileLLaMA."""

from __future__ import annotations

from msgspec.structs import replace

from edgedec.architecture import Architecture, Layer
from edgedec.models import _llama_like as like
from edgedec.models._config import Config
from edgedec.models._rope import rope
from edgedec.models._source import Source

TINY = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 112,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config; biases, head width, rope scaling and tied heads are all free."""
    limit = like.limit(config, context)
    attention = replace(
        like.attention(config), biases=like.biases(config), rope=rope(config, limit)
    )
    layer = Layer(self_attention=attention, mlp=like.mlp(config), norm=like.rms(config))
    layers = (layer,) * like.layer_count(config)
    return like.decoder(config, layers, limit, like.Around("llama"))


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Every tensor under the names that this family set."""
    return like.tensors(architecture)
