"""What a model is, as data: every shape and every choice, layer by layer.

A family file (`edgedec.models`) makes one from a checkpoint's config; exporters and runtimes read
only this. It knows nothing about weights, files or runtimes. JSON round-trips exactly, and an
unknown field is refused, so that an old runtime never runs a newer model wrongly.

Shapes are written with D = embedding width, H = query heads, G = key/value heads, d = head width,
V = vocabulary, L = layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

Size = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
"""How many of something; the bounds hold where JSON is read, which may come from anywhere."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
"""A size that may be none, an id, or a place in a list."""

MAX_LAYERS = 10_000


class Spec(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The base of everything that is written as JSON: immutable, strict, defaults left out."""


class Norm(Spec, frozen=True):
    """`rms`: x / rms(x) * (weight + offset); `layer`: LayerNorm, with a bias if `bias`."""

    kind: Literal["rms", "layer"]
    eps: float
    offset: float = 0.0
    bias: bool = False


class LinearScaling(Spec, frozen=True, tag_field="kind", tag="linear"):
    """Positions divided by `factor` (2306.15595)."""

    factor: float


class Llama3Scaling(Spec, frozen=True, tag_field="kind", tag="llama3"):
    """Low frequencies divided by `factor`, high ones kept, a ramp between (Llama 3.1)."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: Size


class YarnScaling(Spec, frozen=True, tag_field="kind", tag="yarn"):
    """NTK-by-parts interpolation (2309.00071); cos and sin are multiplied by `magnitude`."""

    factor: float
    beta_fast: float
    beta_slow: float
    original_context: Size
    magnitude: float
    truncate: bool = True


class LongRopeScaling(Spec, frozen=True, tag_field="kind", tag="longrope"):
    """One divisor per frequency (2402.13753); cos and sin are multiplied by `magnitude`."""

    factors: tuple[float, ...]
    magnitude: float


Scaling = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling


class Rope(Spec, frozen=True):
    """Rotary positions (2104.09864) over the first `fraction` of each head.

    `half` pairs dimension i with i + rotated/2 (Hugging Face); `interleaved` pairs 2i with 2i + 1.
    `centred` positions run from -n/2 to n/2 over the whole source (encoders only).
    """

    theta: float
    fraction: float = 1.0
    layout: Literal["half", "interleaved"] = "half"
    scaling: Scaling | None = None
    positions: Literal["absolute", "centred"] = "absolute"


class BiasTable(Spec, frozen=True):
    """T5's relative position bias: a learned [buckets, H] table shared by a stack's layers."""

    buckets: Size
    max_distance: Size
    bidirectional: bool


class Attention(Spec, frozen=True):
    """Grouped-query attention. A query sees keys at distance < `window` if there is one.

    Scores are `scale * q.k`, then `softcap * tanh(score / softcap)` if there is a cap. `qk_norm`
    is applied per head, before the rotary step.
    """

    heads: Size
    kv_heads: Size
    head_dim: Size
    scale: float
    biases: tuple[Literal["q", "k", "v", "o"], ...] = ()
    qk_norm: Norm | None = None
    rope: Rope | None = None
    bias_table: BiasTable | None = None
    window: Size | None = None
    softcap: float | None = None
    causal: bool = True

    def __post_init__(self) -> None:
        if min(self.heads, self.kv_heads, self.head_dim) < 1 or self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} heads of {self.head_dim} over {self.kv_heads} key/value heads "
                "do not divide"
            )


class Mlp(Spec, frozen=True):
    """`gated`: down(act(gate(x)) * up(x)); else down(act(up(x))). `gelu_tanh` is GPT-2's form."""

    width: Size
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"]
    gated: bool
    bias: bool = False


class Layer(Spec, frozen=True):
    """One block. `norm_order` says where the norms stand:

    pre: x + f(norm(x)) · post: norm(x + f(x)) · sandwich: x + post_norm(f(norm(x))) ·
    parallel: x + attention(norm1(x)) + mlp(norm2(x)).
    """

    self_attention: Attention
    mlp: Mlp
    norm: Norm
    norm_order: Literal["pre", "post", "sandwich", "parallel"] = "pre"
    cross_attention: Attention | None = None


class Positions(Spec, frozen=True):
    """Positions added to the embedding: a [count + offset, D] table read at position + `offset`.

    `sinusoidal` says that the table was computed, not learned; runtimes read a table either way.
    """

    kind: Literal["learned", "sinusoidal"]
    count: Size
    offset: Count = 0


class Stack(Spec, frozen=True):
    """A run of layers with what stands before and after them."""

    layers: Annotated[tuple[Layer, ...], msgspec.Meta(min_length=1, max_length=MAX_LAYERS)]
    positions: Positions | None = None
    embed_norm: Norm | None = None
    final_norm: Norm | None = None


class Embedding(Spec, frozen=True):
    """Token embeddings [vocab, dim], multiplied by `scale`."""

    vocab: Size
    dim: Size
    scale: float = 1.0


class Head(Spec, frozen=True):
    """Logits = scale * (x W^T + bias), then the soft cap; `tied` reads the embedding table."""

    tied: bool
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None


class Conv(Spec, frozen=True):
    """A convolution over time, [channels, inputs, kernel], its activation, then a norm if any.

    `group_norm` is the eps of a GroupNorm with one group: over all channels and times at once.
    """

    channels: Size
    kernel: Size
    stride: Size = 1
    padding: Count = 0
    bias: bool = True
    activation: Literal["gelu", "tanh"] = "gelu"
    group_norm: float | None = None


class Frontend(Spec, frozen=True):
    """What makes an encoder's rows of sound: features [n, `features`], then convolutions.

    `mel`: log-mel frames; `waveform`: samples at 16 kHz, one feature. `length`: every source is
    brought to so many frames (Whisper); None: as it comes. The last convolution gives D channels.
    """

    kind: Literal["mel", "waveform"]
    features: Size
    convs: Annotated[tuple[Conv, ...], msgspec.Meta(min_length=1, max_length=16)]
    length: Size | None = None

    def rows(self, frames: int) -> int:
        """How many rows the encoder gets for so many frames; 0 or less if there are too few."""
        for conv in self.convs:
            frames = (frames + 2 * conv.padding - conv.kernel) // conv.stride + 1
        return frames


class Tokens(Spec, frozen=True):
    """Ids with a meaning of their own; any of `eos` ends a text."""

    eos: tuple[Count, ...]
    bos: Count | None = None
    pad: Count | None = None
    decoder_start: Count | None = None


class Limits(Spec, frozen=True):
    """The longest decoder context and, with an encoder, the longest source.

    Both in tokens; a source of sound is counted in frames.
    """

    context: Size
    source: Size | None = None


class Architecture(Spec, frozen=True):
    """A whole model. `encoder` is None for a decoder-only one.

    An encoder reads tokens, by the decoder's embedding or by its own `source_embed`, or, with a
    `frontend`, sound. Layers of the decoder then have cross-attention to its normed output.
    """

    family: str
    embed: Embedding
    decoder: Stack
    head: Head
    tokens: Tokens
    limits: Limits
    encoder: Stack | None = None
    source_embed: Embedding | None = None
    frontend: Frontend | None = None

    def __post_init__(self) -> None:
        problem = next((what for what, wrong in self._contradictions() if wrong), None)
        if problem is not None:
            raise ValueError(f"the model's parts do not fit together: {problem}")

    def _contradictions(self) -> Iterator[tuple[str, bool]]:
        """What makes no model, and whether it is so."""
        reads = self.encoder is not None
        across = any(layer.cross_attention is not None for layer in self.decoder.layers)
        yield "an encoder that no layer of the decoder attends to", reads and not across
        yield "cross-attention without an encoder", across and not reads
        own, sound = self.source_embed, self.frontend
        yield "a source without an encoder", not reads and not (own is None and sound is None)
        yield "an encoder that reads and hears", own is not None and sound is not None
        widths = {self.embed.dim}
        widths |= {own.dim} if own is not None else set()
        widths |= {sound.convs[-1].channels} if sound is not None else set()
        yield f"rows of different widths {sorted(widths)}", len(widths) > 1
        yield from _stack_contradictions(self.decoder, encoder=False)
        if self.encoder is not None:
            yield from _stack_contradictions(self.encoder, encoder=True)

    @property
    def layers(self) -> int:
        """L, the number of decoder layers."""
        return len(self.decoder.layers)

    @property
    def vocab(self) -> int:
        """V, the number of token ids (a learned id is V or above)."""
        return self.embed.vocab


def _stack_contradictions(stack: Stack, *, encoder: bool) -> Iterator[tuple[str, bool]]:
    tables = {(la.self_attention.bias_table, la.self_attention.heads) for la in stack.layers}
    shared = len(tables) == 1 or all(table is None for table, _ in tables)
    yield "a table of distances that the layers of a stack do not share", not shared
    for layer in stack.layers:
        own, cross = layer.self_attention, layer.cross_attention
        yield "an encoder whose rows see only earlier ones", encoder and own.causal
        yield "a decoder whose rows see later ones", not encoder and not own.causal
        centred = own.rope is not None and own.rope.positions == "centred"
        yield "centred positions in a decoder", not encoder and centred
        yield "cross-attention in an encoder", encoder and cross is not None
        if cross is not None:
            placed = (cross.rope, cross.bias_table, cross.window) != (None, None, None)
            yield "cross-attention that knows positions", placed
