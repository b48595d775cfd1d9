"""What drafting takes of the time, and adds to a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgedec import drafting
from edgedec.accept import Rule
from edgedec.benchmark import extras, results
from edgedec.benchmark.play import Contestant
from edgedec.contracts import Context, Draft, Needs, Outcome
from edgedec.costs import flat
from edgedec.decode import Loop, Tally
from edgedec.export import to_part
from edgedec.generation import Generation
from edgedec.host import Files, Scratch
from edgedec.plan import Planner
from edgedec.runtimes import native
from edgedec.sampling import Sampler, Sampling
from edgedec.strategies.plain import Silent
from tests.decode.looped import VOCAB, architecture, fake
from tests.native import variants


class Slow(Silent):
    """Takes 3 seconds to guess and 2 to hear how it went, on a clock of its own."""

    now = 0.0

    def clock(self) -> float:
        return self.now

    def propose(self, context: Context, budget: int) -> Draft:
        self.now += 3
        one = np.ones(1, np.int32)
        return Draft(7 * one, -one, np.ones(1, np.float32), 0 * one)

    def observe(self, outcome: Outcome) -> None:
        self.now += 2


def test_the_loop_counts_the_seconds_of_drafting() -> None:
    engine, slow, tally = fake(), Slow(), Tally()
    session = engine.session()
    planner = Planner([(slow, False)], flat(), VOCAB, "fixed", slow.clock)
    host = Scratch(engine, session, architecture(), Files(lambda path: engine))
    looped = Loop(session, host, planner, Needs(), slow.clock)
    list(looped.run([3, 4], Rule(Sampler.build(Sampling()), frozenset(), 12), tally))
    assert tally.drafting == slow.now
    # In the last turn there is nothing left to guess.
    assert slow.now == 5 * (tally.passes - 1)


@pytest.fixture
def made(tmp_path: Path) -> variants.Model:
    return variants.write(tmp_path, "plain")


def stubbed(folder: Path, name: str) -> Any:
    """A model that drafts with some strategies; only its files are asked for."""

    def file(strategy: str) -> Path | None:
        path = folder / f"{strategy}.safetensors"
        return path if path.exists() else None

    bundle = SimpleNamespace(strategy_file=file)
    return SimpleNamespace(bundle=bundle, drafting=drafting.choose(name))


@pytest.mark.skipif(not native.built(), reason="the C engine was not built")
def test_parts_are_counted_by_what_they_hold(made: variants.Model, tmp_path: Path) -> None:
    folder = tmp_path / "strategies"
    masks = np.zeros((3, 48), np.float32)
    head = np.zeros((300, 48), np.float32)
    source = to_part.PartSource("layer_skip", made.bundle.hash, {}, vectors={"masks": masks})
    to_part.write(folder / "layer_skip.safetensors", source, made.architecture)
    alone = extras.of(stubbed(folder, "layer_skip"))
    assert alone.parameters == 3 * 48
    assert alone.bytes == (folder / "layer_skip.safetensors").stat().st_size
    source = to_part.PartSource("medusa", made.bundle.hash, {}, matrices={"head": head})
    to_part.write(folder / "medusa.safetensors", source, made.architecture)
    both = extras.of(stubbed(folder, "layer_skip+medusa+trigram"))
    assert both.parameters == 3 * 48 + 300 * 48
    assert extras.of(stubbed(folder, "trigram")) == extras.Extras()


def test_the_share_is_of_all_seconds(answer: Callable[..., Generation]) -> None:
    told = [answer(5, seconds=2.0, draft_seconds=0.5), answer(5, seconds=3.0, draft_seconds=1.0)]
    model: Any = None
    drafted = Contestant("trigram", model, drafting.choose("trigram"), {})
    assert results._drafting(drafted, told) == 0.3
    assert results._drafting(Contestant("plain", model, drafting.choose("plain"), {}), told) is None
