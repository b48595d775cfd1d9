"""Return of the Encoder (2501.16273): most layers in the encoder, its rotary positions centred.

As the authors' code has it, and with a gated feed-forward step ("gated": true, ours). Their pairs
of query and key/value heads differ from Llama's unless `is_interleaved`; the query heads are then
put into our order.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from edgedec.architecture import (
    Architecture,
    Attention,
    Embedding,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Rope,
    Stack,
)
from edgedec.errors import CheckpointError
from edgedec.models import _llama_like as like
from edgedec.models._config import Config
from edgedec.models._source import Find, Floats, Source, Table, rename, twin

TINY = {
    "model_type": "mu",
    "n_encoder_layer": 4,
    "n_decoder_layer": 2,
    "n_embd": 48,
    "qkv_embd": 32,
    "hidden_dim": 80,
    "n_head": 4,
    "n_kv_head": 2,
    "is_interleaved": False,
    "block_size": 128,
    "rope_theta": 10000,
    "rope_factor": 2.0,
    "rms_norm_eps": 1e-6,
    "gated": False,
    "vocab_size": 112,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config; both sides take up to `block_size` tokens."""
    # Theirs stretches the rotary positions of texts beyond block_size only.
    config.find("rope_factor", float)
    config.expect("is_encoder_decoder", True)
    limit = like.limit(config, context, "block_size")
    norm = Norm(kind="rms", eps=config.positive("rms_norm_eps", 1e-6))
    gated, vocab = config.take("gated", bool, False), config.size("vocab_size")
    mlp = Mlp(
        width=config.size("hidden_dim"),
        activation="silu" if gated else "gelu_tanh",
        gated=gated,
        bias=not gated,
    )
    plain = _attention(config)
    rope = Rope(theta=config.positive("rope_theta", 10000.0))
    across = replace(plain, causal=False)
    centred = replace(across, rope=replace(rope, positions="centred"))
    one = Layer(self_attention=centred, mlp=mlp, norm=norm)
    other = replace(one, self_attention=replace(plain, rope=rope), cross_attention=across)
    return Architecture(
        family="mu",
        embed=Embedding(vocab=vocab, dim=config.size("n_embd")),
        encoder=Stack(layers=(one,) * like.layer_count(config, "n_encoder_layer"), final_norm=norm),
        decoder=Stack(
            layers=(other,) * like.layer_count(config, "n_decoder_layer"), final_norm=norm
        ),
        head=Head(tied=config.take("tie_word_embeddings", bool, True)),
        tokens=like.tokens(config, vocab, start=True),
        limits=Limits(context=limit, source=config.size("block_size")),
    )


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Their names: `e` is the encoder, `h` the decoder."""
    queries, output = _same_order, _same_order
    if not config.take("is_interleaved", bool, False):
        heads = architecture.decoder.layers[0].self_attention
        queries, output = _Order(heads).queries, _Order(heads).output
    encoder: Table = {
        "self_attention_norm": "ln1",
        **_projections("self_attention", "attn", queries, output),
        "mlp_norm": "ln2",
        **_mlp(architecture),
    }
    decoder: Table = {
        "self_attention_norm": "ln1",
        **_projections("self_attention", "causal_attn", queries, output),
        "cross_attention_norm": "ln2",
        **_projections("cross_attention", "cross_attn", queries, output),
        "mlp_norm": "ln3",
        **_mlp(architecture),
    }
    embed = "transformer.wte"
    outer: Table = {
        "embed": (embed, twin("lm_head.weight")) if architecture.head.tied else embed,
        "encoder.final_norm": "transformer.ln_e",
        "decoder.final_norm": "transformer.ln_f",
        "head": "lm_head",
    }
    return rename(architecture, "transformer.h.{}.", decoder, outer, ("transformer.e.{}.", encoder))


def _attention(config: Config) -> Attention:
    heads, dim = config.size("n_head"), config.size("n_embd")
    width = config.size("qkv_embd", dim)
    if width % heads:
        raise CheckpointError(f"{config.place}: qkv_embd {width} does not divide by n_head {heads}")
    if width // heads > like.MAX_HEAD_DIM:
        raise CheckpointError(f"{config.place}: heads of {width // heads} dimensions are too wide")
    return Attention(
        heads=heads,
        kv_heads=config.size("n_kv_head", heads),
        head_dim=width // heads,
        scale=(width // heads) ** -0.5,
        biases=("q", "k", "v", "o"),
    )


def _projections(
    ours: str, theirs: str, queries: Find, output: Find
) -> dict[str, tuple[str, Find]]:
    return {
        f"{ours}.q": (f"{theirs}.q_linear", queries),
        f"{ours}.k": (f"{theirs}.k_linear", Source),
        f"{ours}.v": (f"{theirs}.v_linear", Source),
        f"{ours}.o": (f"{theirs}.out_linear", output),
    }


def _mlp(architecture: Architecture) -> dict[str, str]:
    gated = architecture.decoder.layers[0].mlp.gated
    return {
        "mlp.gate": "mlp.fc1",
        "mlp.up": "mlp.fc3" if gated else "mlp.fc1",
        "mlp.down": "mlp.fc2",
    }


def _same_order(name: str, shape: tuple[int, ...]) -> Source:
    return Source(name, shape)


@dataclass(frozen=True, slots=True)
class _Order:
    """Query head h of theirs reads key/value head h % G; ours reads h // (H / G)."""

    spec: Attention

    def queries(self, name: str, shape: tuple[int, ...]) -> Source:
        """[H d, ...]: the rows of a matrix or a bias."""
        return Source(name, shape, take=self._sorted)

    def output(self, name: str, shape: tuple[int, ...]) -> Source:
        """[D, H d]: the columns; a bias stays as it is."""
        if len(shape) == 1:
            return Source(name, shape)
        return Source(name, shape, take=lambda stored: self._sorted(stored.T).T)

    def _sorted(self, stored: Floats) -> Floats:
        groups = (-1, self.spec.kv_heads, self.spec.head_dim, *stored.shape[1:])
        return stored.reshape(groups).swapaxes(0, 1).reshape(stored.shape)
