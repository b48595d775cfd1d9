"""GPT-NeoX (2204.06745), which Pythia (2304.01373) is: attention and feed-forward in parallel."""

from __future__ import annotations

from msgspec.structs import replace

from edgedec.architecture import Architecture, Layer, Mlp, Norm
from edgedec.models import _llama_like as like
from edgedec.models._config import Config
from edgedec.models._rope import Fields, rope
from edgedec.models._source import Find, Floats, Source, Table, rename, twin

TINY = {
    "model_type": "gpt_neox",
    "hidden_size": 48,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "vocab_size": 112,
    "max_position_embeddings": 256,
    "layer_norm_eps": 1e-5,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "use_parallel_residual": True,
    "hidden_act": "gelu",
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
}

ROPE = Fields(theta="rotary_emb_base", fraction="rotary_pct", default_fraction=0.25)


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config; the residual may also be sequential."""
    limit = like.limit(config, context)
    parallel = config.take("use_parallel_residual", bool, True)
    # transformers 4.4x writes the same two numbers again under the names of other families.
    config.expect("rope_theta", config.positive(ROPE.theta, ROPE.default_theta))
    config.expect("partial_rotary_factor", config.positive(ROPE.fraction, ROPE.default_fraction))
    layer = Layer(
        self_attention=replace(
            like.attention(config), biases=like.biases(config, True), rope=rope(config, limit, ROPE)
        ),
        mlp=Mlp(
            width=config.size("intermediate_size"),
            activation=config.choice("hidden_act", like.ACTIVATIONS, "gelu"),
            gated=False,
            bias=True,
        ),
        norm=Norm(kind="layer", eps=config.positive("layer_norm_eps", 1e-5), bias=True),
        norm_order="parallel" if parallel else "pre",
    )
    layers = (layer,) * like.layer_count(config)
    return like.decoder(config, layers, limit, like.Around("gpt_neox"))


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Their names; the fused matrix holds q, k, v of the first head, then of the second."""
    qkv, spec = "attention.query_key_value", architecture.decoder.layers[0].self_attention
    layer: Table = {
        "self_attention_norm": "input_layernorm",
        "self_attention.q": (qkv, _part(0, spec.heads)),
        "self_attention.k": (qkv, _part(1, spec.heads)),
        "self_attention.v": (qkv, _part(2, spec.heads)),
        "self_attention.o": "attention.dense",
        "mlp_norm": "post_attention_layernorm",
        "mlp.up": "mlp.dense_h_to_4h",
        "mlp.down": "mlp.dense_4h_to_h",
    }
    head = twin("lm_head.weight")
    embed = "gpt_neox.embed_in"
    outer: Table = {
        "embed": (embed, twin("embed_out.weight")) if architecture.head.tied else embed,
        "decoder.final_norm": "gpt_neox.final_layer_norm",
        "head": ("embed_out", head),
    }
    return rename(architecture, "gpt_neox.layers.{}.", layer, outer)


def _part(part: int, heads: int) -> Find:
    def find(name: str, shape: tuple[int, ...]) -> Source:
        def take(stored: Floats) -> Floats:
            by_head = stored.reshape(heads, 3, -1, *shape[1:])
            return by_head[:, part].reshape(shape)

        return Source(name, (3 * shape[0], *shape[1:]), take=take)

    return find
