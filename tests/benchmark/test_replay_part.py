"""Trained parts in replay: the real one's guesses, and the times of one in the shape's sizes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edgedec import parts
from edgedec.architecture import Embedding, Head
from edgedec.benchmark import shapes
from edgedec.benchmark.random_part import LEAST_IDS, random_part, scaled
from edgedec.benchmark.replay import ReplaySession, Scale
from edgedec.benchmark.replay_part import Double, ReplayPart
from edgedec.benchmark.stand import Place, opened
from edgedec.benchmark.stopwatch import Stopwatch
from edgedec.bundle import Bundle, add_strategies, open_bundle
from edgedec.contracts import Rows, Want
from edgedec.export.to_part import PartSource, write
from edgedec.parts import Contents
from edgedec.runtimes import native
from edgedec.runtimes.native.packed import part_tensors
from edgedec.weights import shapes as names

pytestmark = pytest.mark.skipif(not native.built(), reason="needs the C engine")

STORIES = open_bundle("stories")
MODEL = STORIES.manifest.architecture
WIDTH = MODEL.embed.dim
IDS = np.arange(5, 105, dtype=np.int32)


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32) / 8


def source(strategy: str, **more: Any) -> PartSource:
    mix = {"mix": draw(2 * WIDTH, WIDTH), "small": draw(16, WIDTH)}
    vectors = {"prompts": draw(3, WIDTH), "mix.bias": draw(2 * WIDTH), "shares": draw(7)}
    return PartSource(strategy, STORIES.hash, {"exit": 1}, IDS, vectors, mix, **more)


def headed() -> PartSource:
    found = source("medusa")
    found.matrices |= {"head": draw(len(IDS), WIDTH)}
    found.vectors |= {"head.bias": draw(len(IDS)), "norm": draw(WIDTH)}
    return found


def layered() -> PartSource:
    stack = replace(MODEL.decoder, layers=MODEL.decoder.layers[:2])
    table = Embedding(vocab=len(IDS), dim=WIDTH)
    own = replace(MODEL, embed=table, decoder=stack, head=Head(tied=True))
    weights = {name: draw(*shape) for name, shape in names(own).items()}
    return source("kangaroo", architecture=own, weights=weights)


@pytest.fixture
def large(tiny: str) -> Bundle:
    return shapes.random_bundle(tiny, "native")


@pytest.mark.parametrize("made", [headed, layered])
def test_it_is_as_large_as_in_the_shape(large: Bundle, made: Any) -> None:
    there = scaled(made().contents(), MODEL, large)
    shape = large.manifest.architecture
    width = shape.embed.dim
    assert there.matrices["mix"] == (2 * width, width)
    assert there.matrices["small"] == (16, width)
    assert there.vectors["mix.bias"] == (2 * width,) and there.vectors["shares"] == (7,)
    assert there.vectors["prompts"] == (3, width)
    assert there.ids == LEAST_IDS < shape.vocab
    assert (there.bundle, there.about) == (large.hash, {"exit": 1})
    if there.architecture is None:
        assert there.matrices["head"] == (LEAST_IDS, width)
        assert there.vectors["head.bias"] == (LEAST_IDS,) and there.vectors["norm"] == (width,)
    else:
        assert there.architecture.decoder.layers == shape.decoder.layers[:1] * 2
        assert there.architecture.embed.vocab == LEAST_IDS
        assert there.architecture.limits == shape.limits
    assert next((what for what, wrong in parts.problems(there, shape) if wrong), None) is None


def test_all_ids_stay_all_ids_and_layers_read_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "tiny-t5", shapes.T5(64, 2, 1, 128, 900))
    large = shapes.random_bundle("tiny-t5", "native")
    given = layered()
    there = scaled(replace(given.contents(), ids=0), MODEL, large)
    assert there.ids == 0 and there.architecture is not None
    assert there.architecture.embed.vocab == 900
    assert all(layer.cross_attention is None for layer in there.architecture.decoder.layers)
    contents, _ = parts.opened(random_part(there), large, part_tensors)
    assert contents == there


def test_its_file_is_kept(large: Bundle) -> None:
    there = scaled(layered().contents(), MODEL, large)
    path = random_part(there)
    before = path.stat().st_mtime_ns
    assert random_part(there) == path and path.stat().st_mtime_ns == before
    other = random_part(scaled(headed().contents(), MODEL, large))
    assert other != path
    contents, _ = parts.opened(path, large, part_tensors)
    assert contents == there == parts.contents(path)


# --- time --------------------------------------------------------------------------------------


class Hands:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowPart:
    """Takes so many seconds for everything, and remembers what it was asked."""

    def __init__(self, hands: Hands, seconds: float, width: int, vocab: int) -> None:
        self.hands, self.seconds, self.width = hands, seconds, width
        self.about: dict[str, Any] = {"of": seconds}
        self.ids = np.arange(vocab, dtype=np.int32)
        self.asked: list[Any] = []

    def _work(self, *asked: Any) -> None:
        self.hands.now += self.seconds
        self.asked.append(asked)

    def vectors(self, name: str) -> np.ndarray:
        return np.full(1, self.seconds, np.float32)

    def embed(self, ids: np.ndarray) -> np.ndarray:
        self._work("embed", ids.tolist())
        return np.full((len(ids), self.width), self.seconds, np.float32)

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        self._work("linear", name, x.shape)
        return x * 0 + np.float32(self.seconds)

    def likely(self, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        self._work("likely", x.shape, k)
        return np.full((len(x), k), int(self.seconds)), np.ones((len(x), k), np.float32)

    def session(self) -> Any:
        raise AssertionError("not asked here")


def test_only_the_doubles_time_counts(large: Bundle) -> None:
    hands, width = Hands(), large.manifest.architecture.embed.dim
    real, shadow = SlowPart(hands, 60, WIDTH, 100), SlowPart(hands, 1, width, LEAST_IDS)
    own: Contents = headed().contents()
    there = scaled(own, MODEL, large)

    class Watched:
        scale = Scale(MODEL, large.manifest.architecture)
        watch = Stopwatch(hands)

    engine: Any = Watched()
    part = ReplayPart(real, Double(shadow, there), engine, own)
    assert part.about == {"of": 60} and len(part.ids) == 100
    assert part.vectors("prompts").tolist() == [60]
    assert part.embed(np.array([3, MODEL.vocab - 1])).max() == 60 and engine.watch() == 1
    assert part.linear("mix", draw(4, WIDTH)).max() == 60 and engine.watch() == 2
    assert part.likely(draw(3, WIDTH), 5)[0].max() == 60 and engine.watch() == 3
    assert hands.now == 3 * 61
    assert shadow.asked == [("embed", [3, MODEL.vocab - 1]), ("linear", "mix", (4, width)),
                            ("likely", (3, width), 5)]  # fmt: skip


@pytest.mark.parametrize("runtime", ["native", "onnx"])
def test_in_a_replay_a_part_says_what_it_says_without(
    tiny: str, tmp_path: Path, runtime: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(STORIES.path, copy)
    files = {}
    for made in (headed(), layered()):
        files[made.strategy] = tmp_path / f"{made.strategy}.safetensors"
        write(files[made.strategy], made, MODEL)
    bundle = add_strategies(open_bundle(copy), files)
    alone = native.open_part(files["kangaroo"], bundle, None, 1)
    x = draw(5, WIDTH)
    place = Place(str(copy), threads=1, replay=tiny)
    with opened(place, runtime, True, lambda what, share: None) as stand:
        open_part = stand.setup.files.open_part
        assert open_part("phrase_pool") is None
        head, part = open_part("medusa"), open_part("kangaroo")
        assert head is not None and part is not None
        assert head.likely(x, 4)[0].shape == (5, 4)
        assert part.linear("mix", x).tolist() == alone.linear("mix", x).tolist()
        assert part.embed(IDS).tolist() == alone.embed(IDS).tolist()
        assert part.likely(x, 7)[0].tolist() == alone.likely(x, 7)[0].tolist()
        session = part.session()
        assert isinstance(session, ReplaySession)
        rows = Rows(IDS[:5], np.arange(-1, 4, dtype=np.int32), hidden=x)
        found = session.step(rows, want=Want(hidden=(2,)))
        expected = alone.session().step(rows, want=Want(hidden=(2,)))
        assert found.topk(3)[0].tolist() == expected.topk(3)[0].tolist()
        assert found.hidden(2).tolist() == expected.hidden(2).tolist()
        session.keep([found.handles[4]])
        assert len(session.tokens) == len(session._shadow.tokens) == 5
