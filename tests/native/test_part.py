"""Trained parts on the C engine: products, heads and layers against numpy, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec.structs import replace

from edgedec import api, drafting, parts
from edgedec.architecture import Embedding, Head, Norm
from edgedec.bundle import add_strategies, open_bundle
from edgedec.contracts import Rows, Want
from edgedec.devices import EngineOptions
from edgedec.errors import StateError, UnsupportedError, UsageError
from edgedec.export import _blocks, quantise, reference
from edgedec.export.checkpoint import Arrays
from edgedec.export.to_part import PartSource, write
from edgedec.manifest import Format, Forms
from edgedec.parts import Part
from edgedec.runtimes import native
from edgedec.runtimes.native import _engine, spec
from edgedec.runtimes.native.part import Uniform
from edgedec.weights import shapes

from .oracle import Oracle, as_packed, rounded
from .plain import Floats, fresh, rows, same

if TYPE_CHECKING:
    from .conftest import Maker

IDS = np.arange(2, 90, 2, dtype=np.int32)
INT8, INT4 = Format(kind="int8", block=32), Format(kind="int4", block=128)


def draw(*shape: int, scale: float = 0.3) -> Floats:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32) * np.float32(
        scale
    )


def meant(matrix: Floats, form: Format) -> Floats:
    """A matrix as it is stored."""
    inputs = matrix.shape[1]
    padded = np.pad(matrix, ((0, 0), (0, -inputs % (form.block or 1))))
    return quantise.dequantise(*quantise.quantise(padded, form))[:, :inputs]


Opener = Callable[..., Part]


@pytest.fixture
def opened(make: Maker, tmp_path: Path) -> Opener:
    """A part of a model with what is given, on `threads` of the model's engine."""

    def one(name: str, threads: int = 2, **given: Any) -> Part:
        bundle, path = make(name).bundle, tmp_path / "medusa.safetensors"
        write(path, PartSource("medusa", bundle.hash, **given), bundle.manifest.architecture)
        return native.open_part(path, bundle, make(name).open(threads), None)

    return one


# --- products ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [INT8, INT4])
@pytest.mark.parametrize(("outputs", "inputs"), [(37, 96), (16, 48), (1, 16), (300, 1024)])
def test_products_are_those_of_rounded_rows(
    opened: Opener, form: Format, outputs: int, inputs: int
) -> None:
    matrix, bias = draw(outputs, inputs), draw(outputs)
    part = opened("plain", matrices={"mix": matrix}, vectors={"mix.bias": bias}, format=form)
    for count in (1, 3, 8, 9, 20):
        x = draw(count, inputs, scale=3)
        x[0] = 0
        read, doubtful = rounded(x, form.block or 0)
        doubtful[0] = False
        expected = read @ meant(matrix, form).T + bias
        found = part.linear("mix", x)
        assert found.shape == (count, outputs) and found.dtype == np.float32
        error = np.abs(found - expected).max(axis=1)
        assert error[~doubtful].max() < 1e-4 * np.abs(expected).max()
        assert error.max() < 0.05 * np.abs(expected).max()
    assert part.linear("mix", x[:0]).shape == (0, outputs)


@pytest.mark.parametrize("isa", _engine.isas())
def test_a_row_has_the_same_bits_whatever_stands_beside_it(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, isa: str
) -> None:
    given: Any = {"matrices": {"wide": draw(1100, 480), "head": draw(44, 48)}, "ids": IDS}
    x = draw(19, 480)
    alone = opened("gemma", threads=1, **given)
    expected = [alone.linear("wide", row[None]) for row in x]
    likeliest = [alone.likely(row[None, :48], 9) for row in x]
    monkeypatch.setenv("EDGEDEC_ISA", isa)
    part = opened("gemma", threads=3, **given)
    same(part.linear("wide", x), np.concatenate(expected))
    ids, logits = part.likely(np.ascontiguousarray(x[:, :48]), 9)
    assert ids.tolist() == [line.tolist() for one, _ in likeliest for line in one]
    same(logits, np.concatenate([each for _, each in likeliest]))


def test_rows_need_not_lie_in_order(opened: Opener) -> None:
    part = opened("plain", matrices={"mix": draw(37, 96)})
    wide = draw(9, 200)
    expected = part.linear("mix", np.ascontiguousarray(wide[::2, 3:99]))
    same(part.linear("mix", wide[::2, 3:99]), expected)
    same(part.linear("mix", wide[::2, 3:99].astype(np.float64)), expected)  # type: ignore[arg-type]


# --- heads -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "more"), [("gemma", {}), ("plain", {"norm": draw(48)}),
                                            ("gpt2-like", {"norm": draw(32), "norm.bias": draw(32),
                                                           "head.bias": draw(44)}),
                                            ("bart-like", {"norm": draw(48)})])  # fmt: skip
def test_the_likeliest_are_those_of_a_sort(
    make: Maker, opened: Opener, name: str, more: dict[str, Floats]
) -> None:
    model = make(name).architecture
    width = model.embed.dim
    matrix = draw(44, width)
    matrix[30] = matrix[11]  # of equal ones the smaller id comes first
    matrix *= 1 - 0.9 * (np.arange(44) == 5)[:, None]
    part = opened(name, matrices={"head": matrix}, vectors=more, ids=IDS)
    x = draw(11, width, scale=2)
    norm = model.decoder.final_norm or Norm(kind="rms", eps=1e-5)
    after = x
    if "norm" in more:
        w = {"n.weight": more["norm"], "n.bias": more.get("norm.bias", np.zeros(width, np.float32))}
        whole = Norm(kind=norm.kind, eps=norm.eps, bias="norm.bias" in more)
        after = _blocks.norm(x, whole, w, "n")
    read, doubtful = rounded(after, 32)
    expected = read @ meant(matrix, INT8).T + more.get("head.bias", np.float32(0))
    expected = expected * np.float32(model.head.scale)
    if model.head.softcap:
        expected = model.head.softcap * np.tanh(expected / model.head.softcap)
    ids, logits = part.likely(x, 44)
    assert np.sort(ids, axis=1).tolist() == [IDS.tolist()] * 11
    by_place = np.empty_like(logits)
    np.put_along_axis(by_place, np.searchsorted(IDS, ids), logits, axis=1)
    error = np.abs(by_place - expected).max(axis=1)
    assert error[~doubtful].max(initial=0) < 1e-4 * np.abs(expected).max()
    assert error.max() < 0.05 * np.abs(expected).max()
    order = np.argsort(-by_place, axis=1, kind="stable")
    assert ids.tolist() == IDS[order].tolist()
    if "head.bias" not in more:
        assert (by_place[:, 30] == by_place[:, 11]).all()
    for k in (1, 3, 43):
        few, values = part.likely(x, k)
        assert few.tolist() == ids[:, :k].tolist()
        same(values, np.ascontiguousarray(logits[:, :k]))


@pytest.mark.parametrize("name", ["plain4", "gemma", "windows", "neox-like", "t5-like"])
def test_without_a_head_it_is_the_models(make: Maker, opened: Opener, name: str) -> None:
    engine = make(name).open()
    model = engine.architecture
    shown = (model.layers,)
    result = fresh(engine).step(rows([5, 9, 2, 7]), want=Want(hidden=shown))
    ids, logits = result.topk(6)
    part = opened(name, about={"exit": 1})
    found, values = part.likely(result.hidden(model.layers), 6)
    assert found.tolist() == ids.tolist()
    same(values, logits)
    assert part.about == {"exit": 1} and part.ids.tolist() == list(range(model.vocab))


@pytest.mark.parametrize("name", ["plain", "gemma", "neox-like", "t5-like", "bart-like"])
def test_embeddings_are_scaled_and_have_no_positions(
    make: Maker, opened: Opener, name: str
) -> None:
    made = make(name)
    table = made.weights.load("embed.weight")
    ids = np.array([3, 0, made.architecture.vocab - 1], np.int32)
    expected = table[ids] * np.float32(made.architecture.embed.scale)
    np.testing.assert_allclose(opened(name).embed(ids), expected, rtol=1e-6)


# --- layers ------------------------------------------------------------------------------------


def layered(model: Any, count: int) -> dict[str, Any]:
    """So many layers like the model's first over `IDS`, as fields of a source."""
    layer = replace(model.decoder.layers[0], cross_attention=None)
    own = replace(
        model,
        embed=Embedding(vocab=len(IDS), dim=model.embed.dim),
        decoder=replace(model.decoder, layers=(layer,) * count, positions=None, embed_norm=None),
        head=Head(tied=True),
        encoder=None,
        source_embed=None,
        limits=replace(model.limits, source=None),
    )
    noise = {n: draw(*s, scale=0.15) for n, s in shapes(own).items()}
    weights = {n: w + np.float32("norm.weight" in n) for n, w in noise.items()}
    return {"architecture": own, "weights": weights, "ids": IDS}


@pytest.mark.parametrize(("name", "count"), [("plain", 1), ("gemma", 2), ("t5-like", 1)])
def test_its_layers_compute_what_the_reference_does(
    make: Maker, opened: Opener, name: str, count: int
) -> None:
    given = layered(make(name).architecture, count)
    own, weights = given["architecture"], Arrays(given["architecture"], given["weights"])
    packed = as_packed(Uniform(own, INT8), weights)  # type: ignore[arg-type]
    part = opened(name, **given)
    tokens = np.random.default_rng(5).integers(0, len(IDS), 70)
    session = part.session()
    entering = Rows(tokens.astype(np.int32) + 10**6, np.arange(-1, 69, dtype=np.int32),
                    hidden=packed.load("embed.weight")[tokens])  # fmt: skip
    result = session.step(entering, want=Want(hidden=(count,)))
    found = np.stack([result.logits(row) for row in range(70)])
    for weights_of in (packed, weights):
        expected = reference.forward(own, weights_of, tokens)
        error = np.abs(found - expected).max() / np.abs(expected).max()
        assert error < 0.15
        likeness = (found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected)
        assert likeness > 0.999 if weights_of is packed else likeness > 0.99
    # What its session says of a row, its head says of the row's state.
    places, logits = result.topk(5)
    ids, values = part.likely(result.hidden(count), 5)
    assert ids.tolist() == IDS[places].tolist()
    same(values, logits)


def test_its_layers_match_the_oracle_row_by_row(make: Maker, opened: Opener) -> None:
    given = layered(make("plain").architecture, 1)
    own = given["architecture"]
    described: Any = Uniform(own, INT8)
    oracle = Oracle(described, as_packed(described, Arrays(own, given["weights"])))
    x = draw(40, own.embed.dim, scale=1)
    result = opened("plain", **given).session().step(
        Rows(np.zeros(40, np.int32), np.arange(-1, 39, dtype=np.int32), hidden=x),
        want=Want(hidden=(1,)),
    )  # fmt: skip
    expected = oracle.layer(x, 0, _blocks.Placement(40))
    error = np.abs(result.hidden(1) - expected).max(axis=1)
    assert np.median(error) < 1e-3 and error.max() < 0.1 * np.abs(expected).max()


def test_its_sessions_have_trees_and_holes(make: Maker, opened: Opener) -> None:
    part = opened("plain", **layered(make("plain").architecture, 1))
    x, tokens = draw(7, 48), np.zeros(7, np.int32)
    positions = np.array([4, 5, 5, 6, 6, 9, 10], np.int32)
    parents = np.array([-1, 0, 0, 1, 2, -1, 5], np.int32)
    whole = part.session().step(Rows(tokens, parents, positions, x))
    alone = part.session()
    for row in (0, 2, 4):
        one = Rows(tokens[:1], np.array([-1], np.int32), positions[row : row + 1], x[row][None])
        same(alone.step(one).logits(0), whole.logits(row))
        alone.keep([0])
    assert len(alone.tokens) == 3
    other = alone.fork()
    assert len(other.tokens) == 3


# --- what is refused ---------------------------------------------------------------------------


def test_what_a_part_cannot_be_asked(make: Maker, opened: Opener) -> None:
    part = opened("plain", matrices={"mix": draw(37, 96)}, vectors={"prompts": draw(2, 3)})
    assert part.vectors("prompts").tolist() == draw(2, 3).tolist()
    for wrong in (draw(2, 48), draw(192), draw(1, 2, 96)):
        with pytest.raises(UsageError, match=r"rows are \[n, 96\]"):
            part.linear("mix", wrong)
    for missing in (lambda: part.linear("head", draw(1, 48)), lambda: part.vectors("mix")):
        with pytest.raises(StateError, match=r"holds no .*: train it again"):
            missing()
    with pytest.raises(UsageError, match=r"rows are \[n, 48\]"):
        part.likely(draw(1, 96), 2)
    for k in (0, 301):
        with pytest.raises(UsageError, match="k is 1 to 300"):
            part.likely(draw(1, 48), k)
    for wrong_id in (-1, 300):
        with pytest.raises(UsageError, match="of 300"):
            part.embed(np.array([1, wrong_id], np.int32))
    with pytest.raises(UnsupportedError, match="has no layers"):
        part.session()


def test_rows_that_are_no_numbers_give_ids_that_are(opened: Opener) -> None:
    part = opened("plain", matrices={"head": draw(44, 48)}, ids=IDS)
    ids, _ = part.likely(np.full((3, 48), np.nan, np.float32), 4)
    assert set(ids.ravel().tolist()) <= set(IDS.tolist())


def test_it_outlives_its_engine_or_says_that_it_was_closed(make: Maker, tmp_path: Path) -> None:
    made, path = make("plain"), tmp_path / "medusa.safetensors"
    write(path, PartSource("medusa", made.bundle.hash, matrices={"mix": draw(37, 96)}))
    engine = made.open(2)
    part = native.open_part(path, made.bundle, engine, None)
    before = part.linear("mix", draw(3, 96))
    engine.close()
    del engine
    same(part.linear("mix", draw(3, 96)), before)
    closed = made.open(1)
    closed.close()
    with pytest.raises(UsageError, match="closed"):
        native.open_part(path, made.bundle, closed, None)


def test_descriptions_of_matrices_are_checked(make: Maker, opened: Opener) -> None:
    part: Any = opened("plain", matrices={"mix": draw(37, 96)}, vectors={"mix.bias": draw(37)})
    model, data = part._model, part._file.data
    fields = part._fields("mix")
    right = np.frombuffer(spec.encode_linear(fields), spec.LINEAR)
    x, out = draw(3, 96), np.empty((3, 37), np.float32)
    _engine.Linear(model, right.tobytes(), data).run(x, out)
    wrong: list[tuple[str, str, Any]] = [
        ("matrix", "outputs", 0), ("matrix", "outputs", 4800), ("matrix", "inputs", 95),
        ("matrix", "inputs", 4096), ("matrix", "bits", 3), ("matrix", "block", 16),
        ("matrix", "weight", 0), ("matrix", "weight", 2**40), ("matrix", "weight", 32),
        ("matrix", "scales", 2**63), ("norm", "kind", 3), ("norm", "kind", 1),
    ]  # fmt: skip
    changed = []
    for outer, inner, value in wrong:
        changed.append(right.copy())
        changed[-1][outer][inner] = value
    for name, value in (("bias", 8), ("bias", 2**50), ("scale", np.nan), ("softcap", -1.0)):
        changed.append(right.copy())
        changed[-1][name] = value
    for each in changed:
        with pytest.raises(_engine.Refused):
            _engine.Linear(model, each.tobytes(), data)
    with pytest.raises(_engine.Refused, match="EdLinearSpec"):
        _engine.Linear(model, b"short", data)
    with pytest.raises(_engine.Refused, match="beside a Model"):
        _engine.Linear(part, right.tobytes(), data)  # type: ignore[arg-type]
    good = _engine.Linear(model, right.tobytes(), data)
    for arguments in ((x[:, :90].copy(), out), (x, out[:2].copy())):
        with pytest.raises(_engine.Refused):
            good.run(*arguments)
    ids = np.zeros((3, 5), np.int32)
    for k in (0, 38, 5):
        with pytest.raises(_engine.Refused):
            good.topk(x, k, ids, np.zeros((3, 4), np.float32))


# --- in a bundle -------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["native", "onnx"])
def test_whatever_runs_the_model(tmp_path: Path, runtime: str) -> None:
    stories = open_bundle("stories")
    width, path = stories.manifest.architecture.embed.dim, tmp_path / "medusa.safetensors"
    write(path, PartSource("medusa", stories.hash, {"depth": 2}, matrices={"a": draw(16, width)}))
    copy = tmp_path / "copy"
    shutil.copytree(stories.path, copy)
    bundle = add_strategies(open_bundle(copy), {"medusa": path})
    assert bundle.hash == stories.hash
    setup = api.assemble(
        copy, EngineOptions(device="", threads=1), runtime, drafting.choose("plain")
    )
    part = setup.files.open_part("medusa")
    assert part is not None and part.about == {"depth": 2}
    assert part.linear("a", draw(2, width)).shape == (2, 16)
    assert setup.files.open_part("unheard_of") is None
    setup.engine.close()


def test_without_the_engine_or_the_native_form(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, path = make("plain").bundle, tmp_path / "medusa.safetensors"
    write(path, PartSource("medusa", bundle.hash))
    assert parts.contents(path).strategy == "medusa"
    bare = type(bundle)(bundle.path, replace(bundle.manifest, forms=Forms()), bundle.hash)
    with pytest.raises(UnsupportedError, match="need the native form"):
        native.open_part(path, bare, None, 1)
    monkeypatch.setattr(native, "built", lambda: False)
    with pytest.raises(UnsupportedError, match="C engine was not built"):
        native.open_part(path, bundle, None, 1)
