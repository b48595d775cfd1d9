"""Step graphs in ONNX Runtime against the plain numpy reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
from edgedec.errors import CheckpointError, UnsupportedError, UsageError, WriteError
from edgedec.export import quantise, reference, to_onnx
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
    base = Architecture(
        family="test",
        embed=Embedding(vocab=VOCAB, dim=DIM),
        decoder=Stack(layers=layers or (LAYER, LAYER), final_norm=RMS),
        head=Head(tied=True),
        tokens=Tokens(eos=(0,)),
        limits=Limits(context=CONTEXT),
    )
    return replace(base, **changes)


BUCKETS = BiasTable(buckets=32, max_distance=128, bidirectional=False)
SOUND = Frontend(kind="mel", features=8, convs=(Conv(channels=32, kernel=3),))
WAVES = Positions(kind="sinusoidal", count=9)
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


TOKENS = [5, 17, 3, 80, 80, 96, 41, 0, 12]
TREE = ([7, 9, 11, 13, 15, 20, 21], [-1, 0, 0, 2, 1, 1, -1])


def whole_tree() -> tuple[list[int], list[int]]:
    """The tokens as a chain and the tree below its end, for one pass of the reference."""
    last = len(TOKENS) - 1
    parents = [*range(-1, last), *(last if p < 0 else p + last + 1 for p in TREE[1])]
    return TOKENS + TREE[0], parents


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_prefill_steps_and_tree(tmp_path: Path, name: str, kind: Any) -> None:
    architecture = MODELS[name]
    weights = random_weights(architecture)
    if kind == "fp16":
        weights = {n: w.astype(np.float16).astype(np.float32) for n, w in weights.items()}
    formats = quantise.plan(architecture, kind, 32)
    step = exported(tmp_path, architecture, weights, formats)
    ids, parents = whole_tree()
    expected = reference.forward(architecture, Arrays(architecture, weights), ids, parents=parents)
    parts = [step(TOKENS[:4])["logits"]]
    parts += [step([token])["logits"] for token in TOKENS[4:]]
    parts += [step(*TREE, keep=False)["logits"]]
    np.testing.assert_allclose(np.vstack(parts), expected, atol=1e-4, rtol=1e-4)


def test_an_empty_past(tmp_path: Path) -> None:
    architecture = MODELS["llama"]
    weights = random_weights(architecture)
    exported(tmp_path, architecture, weights)
    step = Steps(tmp_path, architecture, slots=0)
    expected = reference.forward(architecture, Arrays(architecture, weights), TOKENS)
    np.testing.assert_allclose(step(TOKENS, keep=False)["logits"], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_neox", "post"])
@pytest.mark.parametrize("cuts", [(), (1,), (1, 2, 3)])
def test_cuts_and_hidden_layers(tmp_path: Path, name: str, cuts: tuple[int, ...]) -> None:
    base = MODELS[name]
    architecture = replace(base, decoder=replace(base.decoder, layers=base.decoder.layers * 4))
    weights = random_weights(architecture)
    layers = architecture.layers
    step = exported(tmp_path, architecture, weights, cuts=cuts, hidden=(0, 1, 2, layers))
    assert len(step.sessions) == (len(cuts) + 2 if cuts else 1)
    source = Arrays(architecture, weights)
    results = step(TOKENS)
    expected = reference.forward(architecture, source, TOKENS)
    np.testing.assert_allclose(results["logits"], expected, atol=2e-4, rtol=1e-4)
    states = list(reference.states(architecture, source, TOKENS, reference.Placement(len(TOKENS))))
    for layer in (0, 1, 2, layers):
        got = results[f"hidden.{layer}"]
        np.testing.assert_allclose(got, states[layer], atol=2e-4, rtol=1e-4)


def test_the_head_reads_only_the_rows_asked_for(tmp_path: Path) -> None:
    step = exported(tmp_path, MODELS["llama"], random_weights(MODELS["llama"]))
    everything = step(TOKENS, keep=False)["logits"]
    for rows in ([3, 1], []):
        logits = step(TOKENS, keep=False, head_rows=rows)["logits"]
        np.testing.assert_allclose(logits, everything[rows], atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_learned_ids_stand_for_embedding_rows(tmp_path: Path, name: str) -> None:
    weights = random_weights(MODELS[name])
    step = exported(tmp_path, MODELS[name], weights)
    expected = step([5, 17, 3], keep=False)["logits"]
    step.learned = weights["embed.weight"][[17, 5]]
    learned = step([VOCAB + 1, VOCAB, 3], keep=False)["logits"]
    np.testing.assert_allclose(learned, expected, atol=1e-5)


@pytest.mark.parametrize("cuts", [(), (1,)])
def test_a_tied_table_is_stored_once(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    vocab = 4096
    embed = Embedding(vocab=vocab, dim=DIM)
    sizes = {}
    for tied in (True, False):
        architecture = model(embed=embed, head=Head(tied=tied))
        folder = tmp_path / str(tied)
        folder.mkdir()
        formats = quantise.plan(architecture, "int8", 64)
        exported(folder, architecture, random_weights(architecture), formats, cuts=cuts)
        sizes[tied] = sum(file.stat().st_size for file in folder.iterdir())
    table = vocab * (DIM + 4)
    assert sizes[False] - sizes[True] == pytest.approx(table, abs=16384)


FORMATS = [("int8", 32), ("int8", 64), ("int4", 32), ("int4", 64)]


@pytest.mark.parametrize(("kind", "block"), FORMATS)
@pytest.mark.parametrize("name", ["untied", "qwen2", "qwen3", "gpt2"])
def test_integers_against_their_own_values(
    tmp_path: Path, name: str, kind: Any, block: int
) -> None:
    """Against the dequantised weights; ONNX Runtime rounds the inputs of products to 8 bit."""
    architecture = MODELS[name]
    weights = random_weights(architecture)
    formats = quantise.plan(architecture, kind, block)
    logits = exported(tmp_path, architecture, weights, formats)(TOKENS)["logits"]
    rounded = dict(weights)
    for tensor in weights:
        form = formats.get(tensor, formats.get(tensor.split(".")[-2], Format(kind="fp32")))
        if form.block is not None and tensor.endswith(".weight") and weights[tensor].ndim == 2:
            parts = quantise.quantise(weights[tensor], form)
            rounded[tensor] = quantise.dequantise(*parts)
    expected = reference.forward(architecture, Arrays(architecture, rounded), TOKENS)
    spread = expected.std()
    assert np.abs(logits - expected).max() < 0.1 * spread
    assert np.abs(logits - expected).mean() < 0.02 * spread


@pytest.mark.parametrize("kind", ["fp32", "int8", "int4"])
def test_rows_do_not_depend_on_their_neighbours(tmp_path: Path, kind: Any) -> None:
    architecture = MODELS["llama"]
    formats = quantise.plan(architecture, kind, 32)
    step = exported(tmp_path, architecture, random_weights(architecture), formats)
    together = step(TOKENS[:8], keep=False)["logits"]
    alone = np.vstack([step([token])["logits"] for token in TOKENS[:8]])
    scale = np.abs(together).max()
    assert np.abs(alone - together).max() < 1e-4 * scale
    assert (alone.argmax(axis=1) == together.argmax(axis=1)).all()


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    architecture = MODELS["untied"]
    source = Arrays(architecture, random_weights(architecture))
    formats = quantise.plan(architecture, "int8", 32)
    to_onnx.write(
        tmp_path, architecture, source, formats, progress=lambda *report: told.append(report)
    )
    done, total, _ = zip(*told, strict=True)
    assert list(done) == sorted(done) and done[-1] == total[-1]
    assert total[-1] == 4 * sum(int(np.prod(s)) for s in shapes(architecture).values())
    assert {name for *_, name in told} == set(shapes(architecture))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        *(({"cuts": cuts}, "cuts") for cuts in ((0,), (2,), (1, 1), (3,))),
        ({"hidden": (0, 3)}, "hidden layers"),
        ({"formats": {"down": Format(kind="int4", block=64)}}, "down"),
    ],
)
def test_what_makes_no_sense(tmp_path: Path, options: dict[str, Any], complaint: str) -> None:
    architecture = MODELS["llama"]
    with pytest.raises(UsageError, match=complaint):
        exported(tmp_path, architecture, random_weights(architecture), **options)


@pytest.mark.parametrize(
    ("part", "architecture"),
    [
        ("encoder", model(encoder=Stack(layers=(LAYER,)))),
        ("front end", model(frontend=SOUND)),
        ("cross-attention", model(replace(LAYER, cross_attention=ATTENTION))),
        ("bias table", model(attention(bias_table=BUCKETS))),
        ("later rows", model(attention(causal=False))),
        ("centred", model(attention(rope=replace(ROPE, positions="centred")))),
        ("--context", model(limits=Limits(context=10**12))),
        ("sinusoidal", model(decoder=Stack(layers=(LAYER,), positions=WAVES))),
    ],
)
def test_what_a_step_graph_does_not_carry(part: str, architecture: Architecture) -> None:
    with pytest.raises(UnsupportedError, match=part):
        to_onnx.check(architecture)


def test_nan_weights_are_refused_by_name(tmp_path: Path) -> None:
    architecture = MODELS["llama"]
    weights = random_weights(architecture)
    source = Arrays(architecture, weights)
    weights["decoder.layers.1.mlp.up.weight"][3, 3] = np.nan
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up"):
        to_onnx.write(tmp_path, architecture, source, quantise.plan(architecture, "int4", 32))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="cannot be written"):
        exported(tmp_path / "missing", MODELS["llama"], random_weights(MODELS["llama"]))
