"""Gemma 3, text only (2503.19786): sandwich norms, five sliding layers to one full layer."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from edgedec.architecture import Architecture, Layer
from edgedec.models import _llama_like as like
from edgedec.models._config import Config
from edgedec.models._rope import Fields, rope
from edgedec.models._source import Source, Table

TINY = {
    "model_type": "gemma3_text",
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 112,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    "sliding_window": 20,
    "sliding_window_pattern": 3,
    "query_pre_attn_scalar": 24,
    "final_logit_softcapping": 30.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}

GLOBAL = Fields(default_theta=1000000.0)
LOCAL = Fields(theta="rope_local_base_freq", scaling=None)
HEAD_DIM, KV_HEADS, WINDOW, PATTERN = 256, 4, 4096, 6
"""Where the config says nothing."""

LAYER: Table = {
    **like.LAYER,
    "self_attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config; embeddings are scaled by sqrt(D), norms by 1 + weight."""
    limit = like.limit(config, context)
    around = like.Around(
        "gemma3_text",
        tied=True,
        embed_scale=config.size("hidden_size") ** 0.5,
        softcap=_softcap(config),
    )
    return like.decoder(config, _layers(config, limit), limit, around)


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Every tensor under Llama's names, but for the four norms of a layer."""
    return like.tensors(architecture, LAYER)


def _layers(config: Config, limit: int) -> Iterator[Layer]:
    norm = like.rms(config, offset=1.0)
    if "attn_logit_softcapping" in config:
        config.refuse("attn_logit_softcapping", "Gemma 3 has none (transformers ignores it)")
    full = replace(
        like.attention(config, HEAD_DIM, KV_HEADS),
        scale=config.positive("query_pre_attn_scalar", 256.0) ** -0.5,
        biases=like.biases(config),
        qk_norm=norm,
        rope=rope(config, limit, GLOBAL, "full_attention"),
    )
    sliding = replace(
        full,
        rope=rope(config, limit, LOCAL, "sliding_attention"),
        window=like.window(config, limit, WINDOW),
    )
    mlp = like.mlp(config, "hidden_activation", "gelu_pytorch_tanh")
    for slides in like.sliding(config, _pattern(config)):
        attention = sliding if slides else full
        yield Layer(self_attention=attention, mlp=mlp, norm=norm, norm_order="sandwich")


def _softcap(config: Config) -> float | None:
    name = "final_logit_softcapping"
    return config.positive(name) if config.find(name, float) is not None else None


def _pattern(config: Config) -> list[bool]:
    every = config.size("_sliding_window_pattern", PATTERN)
    every = config.size("sliding_window_pattern", every)
    return [(index + 1) % every != 0 for index in range(like.layer_count(config))]
