"""Replay: the real model's words, the shape's times, and nothing of the one in the other."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedec import costs, drafting, profiler
from edgedec.benchmark import shapes
from edgedec.benchmark.replay import ReplayEngine, Scale
from edgedec.benchmark.stand import Place, Stand, opened
from edgedec.benchmark.stopwatch import Stopwatch
from edgedec.contracts import TRUNK, Rows, Want
from edgedec.errors import UnsupportedError, UsageError
from edgedec.model import Model
from edgedec.runtimes import native
from edgedec.runtimes.fake import Fake, FakeSession

SHADOW = 9000


@dataclass
class Hands:
    """A clock that goes on only when someone works."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Slow(Fake):
    """A pretend model whose every act takes so many seconds, and which remembers its steps."""

    hands: Hands = field(default_factory=Hands)
    seconds: float = 1.0
    steps: list[Rows] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def session(self) -> SlowSession:
        return SlowSession(self)


class SlowSession(FakeSession):
    def __init__(self, engine: Slow) -> None:
        super().__init__(engine)
        self.slow = engine

    def step(self, rows: Rows, layers: Any = None, want: Want | None = None) -> Any:
        self.slow.hands.now += self.slow.seconds
        self.slow.steps.append(rows)
        return SlowResult(super().step(rows, layers, want), self.slow)

    def keep(self, leaves: Any) -> tuple[int, ...]:
        self.slow.hands.now += self.slow.seconds
        return super().keep(leaves)

    def truncate(self, length: int) -> None:
        self.slow.hands.now += self.slow.seconds
        super().truncate(length)


class SlowResult:
    def __init__(self, result: Any, slow: Slow) -> None:
        self._result, self._slow = result, slow

    def __getattr__(self, name: str) -> Any:
        self._slow.asked.append(name)
        if name != "handles":
            self._slow.hands.now += self._slow.seconds
        return getattr(self._result, name)


@pytest.fixture
def engines(stand: Stand, tiny: str) -> tuple[Slow, Slow, ReplayEngine]:
    """A real model that takes a minute for everything, and a shadow that takes a second."""
    model, hands = stand.setup.bundle.manifest.architecture, Hands()
    real = Slow(model.vocab, 8, 4, model.limits.context, model.tokens.eos, hands=hands, seconds=60)
    shadow = Slow(SHADOW, 64, 3, 4096, cuts=(1, 2), hands=hands)
    scale = Scale(model, shapes.architecture(tiny))
    return real, shadow, ReplayEngine(real, shadow, scale, Stopwatch(hands))


def rows(tokens: list[int], parents: list[int] | None = None) -> Rows:
    above = range(-1, len(tokens) - 1) if parents is None else parents
    return Rows(np.array(tokens, np.int32), np.array(list(above), np.int32))


def test_only_the_shadows_time_counts(engines: tuple[Slow, Slow, ReplayEngine]) -> None:
    real, _, engine = engines
    session = engine.session()
    result = session.step(rows([1, 2, 3]))
    assert engine.watch() == 1
    result.argmax()
    assert engine.watch() == 2
    result.topk(2)
    assert engine.watch() == 3
    session.keep([result.handles[2]])
    assert engine.watch() == 4
    session.truncate(1)
    assert engine.watch() == 5
    assert real.hands.now == 5 * 61


def test_both_see_the_same_tree_on_the_same_past(
    engines: tuple[Slow, Slow, ReplayEngine],
) -> None:
    real, shadow, engine = engines
    session = engine.session()
    session.keep([session.step(rows([1, 2, 3])).handles[2]])
    session.step(rows([4, 5, 6], [TRUNK, 0, 0]))
    session.keep([2])
    assert list(session.tokens) == [1, 2, 3, 4, 6]
    shadowed = session._shadow
    assert list(shadowed.tokens) == [1, 2, 3, 4, 6]
    for one, other in zip(real.steps, shadow.steps, strict=True):
        np.testing.assert_array_equal(one.parents, other.parents)
    copy = session.fork()
    session.truncate(2)
    assert (len(copy.tokens), len(copy._shadow.tokens), len(shadowed.tokens)) == (5, 5, 2)


def test_what_is_asked_of_one_is_asked_of_the_other(
    engines: tuple[Slow, Slow, ReplayEngine],
) -> None:
    real, shadow, engine = engines
    alone = replace(real).session().step(rows([1, 2]))
    result = engine.session().step(rows([1, 2]), want=Want(hidden=(4,)))
    real.asked.clear(), shadow.asked.clear()
    np.testing.assert_array_equal(result.argmax(), alone.argmax())
    np.testing.assert_array_equal(result.logits(1), alone.logits(1))
    np.testing.assert_array_equal(result.topk(3)[0], alone.topk(3)[0])
    assert result.hidden(4).shape == (2, 8)
    asked = [name for name in shadow.asked if name != "handles"]
    assert asked == ["argmax", "logits", "topk", "hidden"]


def test_a_draw_is_drawn_from_the_large_vocabulary_too(
    engines: tuple[Slow, Slow, ReplayEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgedec import _tree

    drawn: list[tuple[int, float]] = []

    def draw(logits: Any, temperature: float, seed: int, index: int) -> int:
        drawn.append((len(logits), temperature))
        return 0

    monkeypatch.setattr(_tree, "draw", draw)
    _, _, engine = engines
    result = engine.session().step(rows([1]))
    result.logits(0)
    assert drawn == []
    engine.temperature = 0.8
    result.logits(0)
    assert drawn == [(SHADOW, 0.8)]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("strategy", ["plain", "auto"])
def test_the_words_are_the_real_models(
    stand: Stand, engines: tuple[Slow, Slow, ReplayEngine], strategy: str, temperature: float
) -> None:
    _, shadow, engine = engines
    setup = replace(stand.setup, drafting=drafting.choose(strategy), costs=costs.flat(1, 0.0))
    slow = replace(setup, engine=replace_engine(engine, setup.engine), clock=engine.watch)
    asked = {"max_new_tokens": 40, "temperature": temperature, "seed": 3}
    alone = Model(replace(setup, drafting=drafting.choose("plain"))).generate("abcabcabc", **asked)
    found = Model(slow).generate("abcabcabc", **asked)
    assert found.tokens == alone.tokens
    assert len(shadow.steps) >= found.passes
    if strategy == "plain":
        # A step, a question and a keep each; nothing else takes time on this clock.
        assert found.tokens_per_second == pytest.approx(1 / 3, abs=1e-3)


def replace_engine(engine: ReplayEngine, real: Any) -> ReplayEngine:
    return ReplayEngine(real, engine.shadow, engine.scale, engine.watch)


def test_layers_ids_and_vectors_are_scaled(stand: Stand, tiny: str) -> None:
    real = stand.setup.bundle.manifest.architecture
    scale = Scale(real, shapes.architecture(tiny))
    assert [scale.layer(layer) for layer in range(5)] == [0, 1, 2, 2, 3]
    assert scale.layers((range(1), range(3, 4))) == (range(1), range(2, 3))
    assert scale.layers(None) is None
    learned = scale.rows(rows([0, real.vocab - 1, real.vocab, real.vocab + 3]))
    assert learned.tokens.tolist() == [0, real.vocab - 1, SHADOW, SHADOW + 3]
    small = Scale(shapes.architecture(tiny), real)
    assert small.rows(rows([real.vocab + 5])).tokens.tolist() == [5]
    entering = replace(rows([1, 2]), hidden=np.ones((2, 8), np.float32))
    assert scale.rows(entering).hidden.shape == (2, 64)  # type: ignore[union-attr]
    assert scale.want(Want((0,), (0, 2, 4))) == Want((0,), (0, 2, 3))


def test_it_can_do_what_both_can(engines: tuple[Slow, Slow, ReplayEngine]) -> None:
    real, shadow, engine = engines
    found = engine.capabilities
    assert found.cuts == (1, 2, 3)
    assert (found.max_rows, found.learned_ids, found.encoder) == (512, True, False)
    shadow.cuts, shadow.max_rows = (1,), 16
    narrow = ReplayEngine(real, shadow, engine.scale).capabilities
    assert (narrow.cuts, narrow.max_rows, narrow.prompt_rows) == ((1,), 16, 16)
    engine.learn(np.zeros((2, 8), np.float32))
    assert (len(real.learned), len(shadow.learned)) == (2, 2)
    engine.close()
    assert (real.closed, shadow.closed) == (True, True)


def test_what_cannot_be_replayed(
    engines: tuple[Slow, Slow, ReplayEngine], tmp_path: Path, plain_bundle: Path
) -> None:
    session = engines[2].session()
    session.step(rows([1]))
    session.keep([0])
    session.save(tmp_path / "state")
    assert (tmp_path / "state").exists()
    with pytest.raises(UnsupportedError):
        session.load(tmp_path / "state")
    with pytest.raises(UsageError, match="has no encoder"):
        session.encode(np.array([1], np.int32))
    quiet = {"drafts": True, "tell": lambda what, share: None}
    with (
        pytest.raises(UnsupportedError, match="simulated"),
        opened(Place(str(plain_bundle), "fake", replay="135m"), "fake", **quiet),
    ):
        pass
    with (
        pytest.raises(UsageError, match="alone and t5-base is none: replay 135m or 1b"),
        opened(Place(replay="t5-base"), "onnx", **quiet),
    ):
        pass
    with (
        pytest.raises(UsageError, match="no format 'int2' of a shape; there is: int4, int8"),
        opened(Place(replay="135m/int2"), "onnx", **quiet),
    ):
        pass
    with (
        pytest.raises(UsageError, match="no shape 'huge'; there is: 135m, 1b"),
        opened(Place(replay="huge"), "onnx", **quiet),
    ):
        pass


@pytest.mark.parametrize("runtime", ["native", "onnx"] if native.built() else ["onnx"])
def test_the_planner_reads_the_shapes_costs(
    tiny: str, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[str, int | None]] = []
    known = costs.Costs((1, 8), (0,), ((1.0, 2.0),), (0.5, 0.5), depth=3)

    def costs_for(engine: Any, bundle: Any, device: Any, options: Any) -> costs.Costs:
        measured.append((bundle.manifest.name, options.threads))
        return known

    monkeypatch.setattr(profiler, "costs_for", costs_for)
    told: list[float] = []
    place = Place(threads=2, replay=tiny)
    with opened(place, runtime, True, lambda what, share: told.append(share)) as stand:
        assert measured == [(f"tiny-int4-{runtime}", 2)]
        assert stand.setup.costs == replace(known, depth=10)
        assert stand.replayed == tiny
        model = Model(replace(stand.setup, drafting=drafting.choose("prompt_lookup")))
        drafted = model.generate("Once upon a time", max_new_tokens=24)
        assert told[-1] == 1.0
    with opened(Place(), runtime, False, lambda what, share: None) as alone:
        plain = Model(alone.setup).generate("Once upon a time", max_new_tokens=24)
    if runtime == "native":
        assert drafted.tokens == plain.tokens
    assert measured == [(f"tiny-int4-{runtime}", 2)]
