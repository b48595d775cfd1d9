"""Phi-3, 3.5 and 4-mini (2404.14219): Llama with fused matrices and LongRoPE (2402.13753).

The longest texts need other rotary factors than short ones. Without a context asked for, the
original context and its short factors are exported; they are what transformers uses there too.
"""

from __future__ import annotations

from msgspec.structs import replace

from edgedec.architecture import Architecture, Layer
from edgedec.models import _llama_like as like
from edgedec.models._config import Config
from edgedec.models._rope import Fields, Settings, rope
from edgedec.models._source import Find, Source, Table

TINY = {
    "model_type": "phi3",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 512,
    "original_max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0, 1.05, 1.1, 1.2, 1.35, 1.5],
        "long_factor": [1.1, 1.4, 2.0, 3.0, 3.5, 4.0],
    },
    "partial_rotary_factor": 0.75,
    "sliding_window": 28,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

ROPE = Fields(default_original=4096)


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config; beyond the original context the long factors hold for every text."""
    settings = Settings(config, ROPE)
    if context is None and settings.kind == "longrope":
        context = min(settings.original_context, like.limit(config, None))
    limit = like.limit(config, context)
    config.find("original_max_position_embeddings", int)
    config.expect("interpolate_factor", 1)
    config.expect("full_attn_mod", 1)
    attention = replace(
        like.attention(config), rope=rope(config, limit, ROPE), window=like.window(config, limit)
    )
    layer = Layer(self_attention=attention, mlp=like.mlp(config), norm=like.rms(config, 1e-5))
    layers = (layer,) * like.layer_count(config)
    return like.decoder(config, layers, limit, like.Around("phi3"))


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Llama's names, with q, k, v in one matrix and gate, up in another."""
    layer = architecture.decoder.layers[0]
    spec, width = layer.self_attention, layer.mlp.width
    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    qkv, gate_up = "self_attn.qkv_proj", "mlp.gate_up_proj"
    total = queries + 2 * keys
    table: Table = {
        **like.LAYER,
        "self_attention.q": (qkv, _rows(0, total)),
        "self_attention.k": (qkv, _rows(queries, total)),
        "self_attention.v": (qkv, _rows(queries + keys, total)),
        "mlp.gate": (gate_up, _rows(0, 2 * width)),
        "mlp.up": (gate_up, _rows(width, 2 * width)),
    }
    return like.tensors(architecture, table)


def _rows(first: int, total: int) -> Find:
    def find(name: str, shape: tuple[int, ...]) -> Source:
        return Source(name, (total, *shape[1:]), rows=(first, first + shape[0]))

    return find
