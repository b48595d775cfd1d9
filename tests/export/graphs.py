"""Models of every kind for the tests of step graphs, and a minimal runtime for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edgedec.architecture import (
    Architecture,
    Attention,
    BiasTable,
    Conv,
    Embedding,
    Frontend,
    Head,
    Layer,
    Limits,
    Llama3Scaling,
    Mlp,
    Norm,
    Positions,
    Rope,
    Stack,
    Tokens,
)
from edgedec.export import reference, to_onnx
from edgedec.export.checkpoint import Arrays
from edgedec.manifest import Format
from edgedec.weights import shapes

VOCAB, DIM, CONTEXT, SLOTS = 97, 64, 48, 24
UNSEEN = np.float32(-3e38)

RMS = Norm(kind="rms", eps=1e-5)
LAYER_NORM = Norm(kind="layer", eps=1e-5, bias=True)
OFFSET = Norm(kind="rms", eps=1e-6, offset=1.0)
ROPE = Rope(theta=10000.0)
ATTENTION = Attention(heads=4, kv_heads=2, head_dim=16, scale=0.25, rope=ROPE)
MLP = Mlp(width=96, activation="silu", gated=True)
LAYER = Layer(self_attention=ATTENTION, mlp=MLP, norm=RMS)


def attention(**changes: Any) -> Layer:
    return replace(LAYER, self_attention=replace(ATTENTION, **changes))


def model(*layers: Layer, **changes: Any) -> Architecture:
    parts: dict[str, Any] = {
        "family": "test",
        "embed": Embedding(vocab=VOCAB, dim=DIM),
        "decoder": Stack(layers=layers or (LAYER, LAYER), final_norm=RMS),
        "head": Head(tied=True),
        "tokens": Tokens(eos=(0,)),
        "limits": Limits(context=CONTEXT),
    }
    # All at once: an encoder alone, or cross-attention alone, would be refused.
    return Architecture(**parts | changes)


BUCKETS = BiasTable(buckets=32, max_distance=128, bidirectional=False)
SOUND = Frontend(kind="mel", features=8, convs=(Conv(channels=32, kernel=3),))
WAVES = Positions(kind="sinusoidal", count=CONTEXT)
SIDEWAYS = attention(causal=False)
SEEING = Stack(layers=(SIDEWAYS,))
CROSSING = replace(LAYER, cross_attention=replace(ATTENTION, rope=None, causal=False))
SCALED = Rope(
    theta=500.0,
    scaling=Llama3Scaling(
        factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=32
    ),
)
LEARNED = Stack(
    layers=(
        replace(
            attention(rope=None, kv_heads=4, biases=("q", "k", "v", "o")),
            norm=LAYER_NORM,
            mlp=Mlp(width=96, activation="gelu_tanh", gated=False, bias=True),
        ),
    )
    * 2,
    positions=Positions(kind="learned", count=CONTEXT, offset=2),
    embed_norm=LAYER_NORM,
    final_norm=LAYER_NORM,
)
MODELS = {
    "llama": model(),
    "untied": model(head=Head(tied=False, bias=True, scale=0.5, softcap=3.0)),
    "qwen2": model(attention(biases=("q", "k", "v"))),
    "qwen3": model(attention(qk_norm=RMS)),
    "one key for all": model(attention(kv_heads=1)),
    "interleaved": model(attention(rope=replace(ROPE, layout="interleaved"))),
    "partial": model(attention(rope=replace(ROPE, fraction=0.5), heads=3, kv_heads=3)),
    "scaled": model(attention(rope=SCALED)),
    "smollm3": model(LAYER, attention(rope=None)),
    "mistral": model(attention(window=3)),
    "gemma3": model(
        replace(attention(qk_norm=OFFSET, window=4), norm=OFFSET, norm_order="sandwich"),
        replace(
            attention(qk_norm=OFFSET, rope=Rope(theta=100.0), softcap=5.0),
            norm=OFFSET,
            norm_order="sandwich",
            mlp=replace(MLP, activation="gelu_tanh"),
        ),
        embed=Embedding(vocab=VOCAB, dim=DIM, scale=8.0),
    ),
    "gpt2": model(decoder=LEARNED),
    "gpt_neox": model(
        replace(
            attention(rope=replace(ROPE, fraction=0.25), kv_heads=4, biases=("q", "k", "v", "o")),
            norm=LAYER_NORM,
            norm_order="parallel",
            mlp=Mlp(width=96, activation="gelu", gated=False, bias=True),
        ),
        replace(LAYER, norm_order="parallel", norm=replace(LAYER_NORM, bias=False)),
    ),
    "post": model(replace(LAYER, norm_order="post", mlp=replace(MLP, activation="relu"))),
    "no final norm": model(decoder=Stack(layers=(LAYER,))),
    "sinusoidal": model(decoder=Stack(layers=(LAYER,), positions=WAVES)),
}


def random_weights(architecture: Architecture, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    draw = np.random.default_rng(seed)
    return {
        name: draw.standard_normal(shape, dtype=np.float32) * np.float32(0.2)
        for name, shape in shapes(architecture).items()
    }


class Steps:
    """A minimal runtime: kept rows go into the slots from the last one down."""

    def __init__(self, folder: Path, architecture: Architecture, slots: int = SLOTS) -> None:
        import onnxruntime

        self.architecture = architecture
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        files = sorted(folder.glob("*.onnx"))
        self.sessions = [onnxruntime.InferenceSession(file, options) for file in files]
        self.positions: list[int] = []
        self.learned = np.zeros((1, DIM), np.float32)
        self.past = {
            f"past.{index}.{part}": np.zeros(
                (layer.self_attention.kv_heads, slots, layer.self_attention.head_dim), np.float32
            )
            for index, layer in enumerate(architecture.decoder.layers)
            for part in ("key", "value")
        }
        self.slots = slots

    def __call__(
        self,
        ids: Sequence[int],
        parents: Sequence[int] | None = None,
        keep: bool = True,
        head_rows: Sequence[int] | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        count = len(ids)
        rows = reference.Placement(count, parents)
        feeds = {
            "ids": np.asarray(ids, np.int64),
            "learned": self.learned,
            "positions": rows.positions + len(self.positions),
            "head_rows": np.asarray(range(count) if head_rows is None else head_rows, np.int64),
            **self.past,
        }
        for window in {layer.self_attention.window for layer in self.architecture.decoder.layers}:
            name = "mask" if window is None else f"mask.w{window}"
            feeds[name] = self.mask(rows, window)
        results: dict[str, NDArray[np.float32]] = {}
        for session in self.sessions:
            names = [output.name for output in session.get_outputs()]
            wanted = {value.name: feeds[value.name] for value in session.get_inputs()}
            results.update(zip(names, session.run(names, wanted), strict=True))
            for name in names:
                if name.startswith("hidden."):
                    feeds["hidden"] = results[name]
        if keep:
            self.keep(rows, results)
        return results

    def mask(self, rows: reference.Placement, window: int | None) -> NDArray[np.float32]:
        seen = np.zeros((len(rows.positions), self.slots), bool)
        positions = rows.positions + len(self.positions)
        for index, position in enumerate(self.positions):
            near = positions - position < (window or CONTEXT)
            seen[:, self.slots - 1 - index] = near
        both = np.hstack([seen, rows.visible(window)])
        return np.where(both, np.float32(0), UNSEEN)

    def keep(self, rows: reference.Placement, results: Mapping[str, NDArray[np.float32]]) -> None:
        first = self.slots - 1 - len(self.positions)
        for name, past in self.past.items():
            new = results[name.replace("past", "new")]
            for row in range(new.shape[1]):
                past[:, first - row] = new[:, row]
        self.positions += [*(rows.positions + len(self.positions))]


def exported(
    folder: Path,
    architecture: Architecture,
    weights: Mapping[str, NDArray[np.float32]],
    formats: Mapping[str, Format] | None = None,
    **options: Any,
) -> Steps:
    source = Arrays(architecture, weights)
    to_onnx.write(folder, architecture, source, formats or {}, to_onnx.OnnxOptions(**options))
    return Steps(folder, architecture)
