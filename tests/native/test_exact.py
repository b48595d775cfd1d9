"""The same bits for a row, whatever shares its step, its session and its processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedec.contracts import TRUNK, Rows, Session
from edgedec.runtimes.native.engine import KV_TYPES, Native

from . import variants
from .plain import Plain, fresh, prefill, rows, same

if TYPE_CHECKING:
    from .conftest import Maker

LONG = 450
"""Tokens of past, so that attention has more chunks than it gives to one thread."""

FEW = ["plain4", "windows", "gemma", "interleaved", "post", "t5-like", "mu-like"]

Engines = Callable[[str, str, int], Native]
Plains = Callable[[str, str], Plain]


def text(count: int, seed: int = 0, vocab: int = 96) -> list[int]:
    found: list[int] = np.random.default_rng(seed).integers(0, vocab, count).tolist()
    return found


@pytest.fixture(scope="module")
def engines(make: Maker) -> Engines:
    opened: dict[tuple[str, str, int], Native] = {}

    def one(name: str, kv_type: str, threads: int) -> Native:
        key = name, kv_type, threads
        if key not in opened:
            opened[key] = make(name).open(threads, kv_type)
        return opened[key]

    return one


@pytest.fixture(scope="module")
def plains(engines: Engines) -> Plains:
    found: dict[tuple[str, str], Plain] = {}

    def one(name: str, kv_type: str) -> Plain:
        key = name, kv_type
        if key not in found:
            found[key] = Plain(engines(name, kv_type, 1))
        return found[key]

    return one


# --- anything may happen to a session ----------------------------------------------------------


class Walk:
    """A session that is led about at random, and what its trunk and living rows should be."""

    def __init__(self, data: st.DataObject, engine: Native, plain: Plain, folder: Path) -> None:
        self.draw, self.engine, self.plain = data.draw, engine, plain
        self.state = folder / "state"
        self.session: Session = fresh(engine)
        self.trunk: list[int] = []
        self.parents: list[int] = []
        self.living: list[list[int]] = []
        self.lost: set[int] = set()
        """Rows that were shown an ancestor which the session does not know as one."""
        self.layers = engine.architecture.layers

    def begin(self) -> None:
        length = self.draw(st.sampled_from([0, 1, 63, 64, 130, LONG]))
        self.trunk = text(length)
        if length:
            parts = self.draw(st.lists(st.integers(1, length - 1), max_size=3, unique=True)
                              if length > 1 else st.just([]))  # fmt: skip
            result = prefill(self.session, self.trunk, sorted(parts))
            last = length - max([0, *parts]) - 1
            same(result.logits(last), self.plain.logits(self.trunk))

    def step(self) -> None:
        count = self.draw(st.one_of(st.integers(1, 9), st.sampled_from([16, 17, 31, 64])))
        first = len(self.living)
        tokens = self.draw(st.lists(st.integers(0, 95), min_size=count, max_size=count))
        shape = self.draw(st.sampled_from(["chain", "star", "tree"]))
        parents = []
        for i in range(count):
            if shape == "tree":
                parents.append(self.draw(st.integers(-1, first + i - 1)))
            else:
                parents.append(first + i - 1 if shape == "chain" and i else first - 1)
        for token, parent in zip(tokens, parents, strict=True):
            self.living.append([*(self.living[parent] if parent >= 0 else []), token])
            self.parents.append(parent)
        self.run(tokens, parents, first)

    def run(self, tokens: list[int], parents: list[int], first: int) -> None:
        new = list(range(first, first + len(tokens)))
        step = self.shown(tokens, parents, first)
        if self.layers == 1 or self.draw(st.booleans()):
            result = self.session.step(step)
        else:
            cut = self.draw(st.integers(1, self.layers - 1))
            self.session.step(step, (range(cut),))
            new = self.draw(st.permutations(new))
            result = self.session.resume(new, (range(cut, self.layers),))
        for line, row in enumerate(new):
            same(result.logits(line), self.plain.logits([*self.trunk, *self.living[row]]))

    def shown(self, tokens: list[int], parents: list[int], first: int) -> Rows:
        """The rows of a step; some hang on the trunk, and their ancestors are shown to them."""
        told = [parent if self.draw(st.integers(0, 5)) else TRUNK for parent in parents]
        for row, (parent, said) in enumerate(zip(parents, told, strict=True), start=first):
            if said != parent or parent in self.lost:
                self.lost.add(row)
        if not self.lost:
            return rows(tokens, parents)
        new = range(first, first + len(tokens))
        start = len(self.trunk) - 1
        return Rows(
            np.array(tokens, np.int32),
            np.array(told, np.int32),
            np.array([start + len(self.living[row]) for row in new], np.int32),
            visible=[list(self.ancestors(row))[1:] if row in self.lost else [] for row in new],
        )

    def ancestors(self, row: int) -> Sequence[int]:
        found = []
        while row >= 0:
            found.append(row)
            row = self.parents[row]
        return found

    def keep(self) -> None:
        """One leaf, several, or none; lost rows would lose their ancestors."""
        choice = st.integers(-1, len(self.living) - 1)
        leaves = self.draw(st.lists(choice, min_size=1, max_size=4))
        leaves = [TRUNK] if self.lost else leaves
        fresh = self.session.keep(leaves)
        paths = [list(self.ancestors(leaf))[::-1] for leaf in leaves]
        common = 0
        while all(len(p) > common and p[common] == paths[0][common] for p in paths):
            common += 1
        self.trunk += [self.living[row][-1] for row in paths[0][:common]]
        alive = sorted({row for path in paths for row in path[common:]})
        numbers = {row: i for i, row in enumerate(alive)} | {TRUNK: TRUNK}
        self.parents = [numbers.get(self.parents[row], TRUNK) for row in alive]
        self.living = [self.living[row][common:] for row in alive]
        self.lost = set()
        assert fresh == tuple(numbers.get(leaf, TRUNK) for leaf in leaves)

    def drop(self) -> None:
        self.living, self.parents, self.lost = [], [], set()

    def go_on(self) -> None:
        match self.draw(st.sampled_from(["nothing", "keep", "keep", "cut", "fork", "save"])):
            case "keep":
                self.keep()
            case "cut":
                self.trunk = self.trunk[: self.draw(st.integers(0, len(self.trunk)))]
                self.session.truncate(len(self.trunk))
                self.drop()
            case "fork":
                self.session = self.session.fork()
                self.drop()
            case "save":
                self.session.save(self.state)
                self.session = self.engine.session()
                self.session.load(self.state)
                self.drop()
        assert list(self.session.tokens) == self.trunk


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.data(),
    name=st.sampled_from(FEW),
    kind=st.tuples(st.sampled_from(KV_TYPES), st.sampled_from([1, 2, 4])),
)
def test_a_row_has_the_bits_of_its_path(
    engines: Engines,
    plains: Plains,
    tmp_path: Path,
    data: st.DataObject,
    name: str,
    kind: tuple[str, int],
) -> None:
    kv_type, threads = kind
    walk = Walk(data, engines(name, kv_type, threads), plains(name, kv_type), tmp_path)
    walk.begin()
    for _ in range(data.draw(st.integers(1, 4))):
        walk.step()
        walk.go_on()


# --- each by itself ----------------------------------------------------------------------------


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("name", [*variants.VARIANTS, "gpt2", "phi3", "smollm3"])
def test_prefill_whole_or_in_chunks(
    engines: Engines, plains: Plains, name: str, kv_type: str
) -> None:
    for threads in (1, 2, 4):
        engine, plain = engines(name, kv_type, threads), plains(name, kv_type)
        path = text(min(LONG, engine.architecture.limits.context))
        whole = fresh(engine).step(rows(path))
        for row in (0, 62, 63, 64, 100, len(path) - 1):
            same(whole.logits(row), plain.logits(path[: row + 1]))
        chunked = prefill(fresh(engine), path, [1, 3, 65, 97])
        same(chunked.logits(len(path) - 98), plain.logits(path))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 33, 48, 63, 64])
@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_any_number_of_rows_after_a_long_past(
    engines: Engines, plains: Plains, kv_type: str, count: int
) -> None:
    past = text(LONG)
    for threads in (1, 4):
        session = engines("plain", kv_type, threads).session()
        prefill(session, past)
        tokens = text(count, seed=count)
        parents = [(i - 1) // 2 if i % 3 else i - 1 for i in range(count)]
        result = session.step(rows(tokens, parents))
        branches: list[list[int]] = []
        for token, parent in zip(tokens, parents, strict=True):
            branches.append([*(branches[parent] if parent >= 0 else []), token])
        for row in {0, count // 2, count - 1}:
            expected = plains("plain", kv_type).logits([*past, *branches[row]])
            same(result.logits(row), expected)


def test_a_cut_trunk_is_a_fresh_one(engines: Engines) -> None:
    """What `Plain` itself rests on."""
    path, engine = text(150), engines("windows", "fp16", 1)
    session = engine.session()
    prefill(session, [*path[:100], *text(90, seed=1)])
    session.truncate(100)
    for token in path[100:]:
        result = session.step(rows([token]))
        session.keep([0])
    fresh = engine.session()
    for token in path:
        expected = fresh.step(rows([token]))
        fresh.keep([0])
    same(result.logits(0), expected.logits(0))
