"""GPT-2: learned positions, LayerNorm with biases, and matrices stored as [inputs, outputs]."""

from __future__ import annotations

from collections.abc import Iterator

from edgedec.architecture import (
    Architecture,
    Attention,
    Embedding,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Positions,
    Stack,
)
from edgedec.errors import CheckpointError
from edgedec.models import _llama_like as like
from edgedec.models._config import Config
from edgedec.models._source import Find, Floats, Source, Table, rename, twin

TINY = {
    "model_type": "gpt2",
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
    "n_ctx": 128,
    "vocab_size": 112,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "scale_attn_by_inverse_layer_idx": True,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config; the scale of the scores may fall with the depth."""
    limit = like.limit(config, context, "n_positions")
    dim, vocab = config.size("n_embd"), config.size("vocab_size")
    config.find("n_ctx", int)
    # Changes rounding in half precision only.
    config.find("reorder_and_upcast_attn", bool)
    layers = tuple(_layers(config, dim))
    count = config.size("n_positions")
    return Architecture(
        family="gpt2",
        embed=Embedding(vocab=vocab, dim=dim),
        decoder=Stack(
            layers=layers,
            positions=Positions(kind="learned", count=count),
            final_norm=layers[0].norm,
        ),
        head=Head(tied=config.take("tie_word_embeddings", bool, True)),
        tokens=like.tokens(config, vocab),
        limits=Limits(context=limit),
    )


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Their names, with q, k, v side by side in one matrix."""
    layer: Table = {
        "self_attention_norm": "ln_1",
        "self_attention.q": ("attn.c_attn", _third(0)),
        "self_attention.k": ("attn.c_attn", _third(1)),
        "self_attention.v": ("attn.c_attn", _third(2)),
        "self_attention.o": ("attn.c_proj", _transposed),
        "mlp_norm": "ln_2",
        "mlp.up": ("mlp.c_fc", _transposed),
        "mlp.down": ("mlp.c_proj", _transposed),
    }
    embed = "transformer.wte"
    outer: Table = {
        "embed": (embed, twin("lm_head.weight")) if architecture.head.tied else embed,
        "decoder.positions": "transformer.wpe.weight",
        "decoder.final_norm": "transformer.ln_f",
        "head": "lm_head",
    }
    return rename(architecture, "transformer.h.{}.", layer, outer)


def _layers(config: Config, dim: int) -> Iterator[Layer]:
    heads = config.size("n_head")
    if dim % heads:
        raise CheckpointError(f"{config.place}: n_embd {dim} does not divide by n_head {heads}")
    norm = Norm(kind="layer", eps=config.positive("layer_norm_epsilon", 1e-5), bias=True)
    scaled = config.take("scale_attn_weights", bool, True)
    falls = config.take("scale_attn_by_inverse_layer_idx", bool, False)
    mlp = Mlp(
        width=config.size("n_inner", 4 * dim),
        activation=config.choice("activation_function", like.ACTIVATIONS, "gelu_new"),
        gated=False,
        bias=True,
    )
    for index in range(like.layer_count(config, "n_layer")):
        scale = (dim // heads) ** -0.5 if scaled else 1.0
        attention = Attention(
            heads=heads,
            kv_heads=heads,
            head_dim=dim // heads,
            scale=scale / (index + 1) if falls else scale,
            biases=("q", "k", "v", "o"),
        )
        yield Layer(self_attention=attention, mlp=mlp, norm=norm)


def _transposed(name: str, shape: tuple[int, ...]) -> Source:
    """[inputs, outputs] -> ours; a bias stays as it is."""
    return Source(name, shape[::-1], take=lambda stored: stored.T)


def _third(part: int) -> Find:
    def find(name: str, shape: tuple[int, ...]) -> Source:
        def take(stored: Floats) -> Floats:
            return stored.T[part * shape[0] : (part + 1) * shape[0]]

        return Source(name, (*shape[:0:-1], 3 * shape[0]), take=take)

    return find
