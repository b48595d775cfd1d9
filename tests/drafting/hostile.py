"""Wrong arguments for every call of the C binding: an exception or an answer, never a crash.

    python hostile.py EXTENSION EXAMPLES

A program of its own, so that a crash fails a test and not all tests, and so that it can run where
sanitizers watch: test_sanitizers.py starts it. What it is given stays its own: no reference and no
buffer may be held on to after a call.
"""

from __future__ import annotations

import array
import faulthandler
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

REFUSED = (ValueError, TypeError, OverflowError, IndexError, BufferError, AttributeError)
"""What a wrong argument may raise."""


def load(path: str) -> ModuleType:
    spec = spec_from_file_location("_fast", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAST = load(sys.argv[1])
each = settings(max_examples=int(sys.argv[2]), deadline=None, database=None, print_blob=True,
                suppress_health_check=list(HealthCheck))  # fmt: skip


# --- what is passed ------------------------------------------------------------------------------


class Shrinking:
    """A number, in whose making everything that can be emptied is emptied."""

    lists: list[list[Any]] = []  # noqa: RUF012 - those of the call that is made

    def __index__(self) -> int:
        for found in self.lists:
            found.clear()
        return 1

    __float__ = __len__ = __index__


class Raising:
    """A number that cannot be told."""

    def __index__(self) -> int:
        raise ValueError("not today")

    __float__ = __len__ = __index__


def mostly(right: st.SearchStrategy[Any], wrong: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 11).flatmap(lambda n: right if n < 11 else wrong)


NONSENSE = st.sampled_from([None, "7", 1.5, b"1234", (), 10**30, -(10**30), Raising(), Shrinking()])
EDGES = st.sampled_from(
    [sign * (1 << bits) + by for bits in (0, 31, 32, 63, 64) for by in (-1, 0) for sign in (1, -1)]
)
WRONG = st.one_of(NONSENSE, EDGES)
ENDLESS = st.just([range(1 << 62), range(1 << 31)])
NUMBERS = mostly(st.integers(-2, 40), WRONG)
FLOATS = mostly(st.floats(), WRONG)
RATES = mostly(st.sampled_from([0.0, 0.5, 1.0]), FLOATS)
TOKENS = mostly(st.lists(mostly(st.integers(0, 4), WRONG), max_size=12), WRONG)


SHAPES = ["int32", "float32", "float64", "bytes", "int64", "bool", "array", "bytearray",
          "every second", "odd address", "released", "square"]  # fmt: skip


@cache
def drawn(size: int, seed: int) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    ints = random.choice([*range(-1, 5), *range(-1, 5), 1 << 30, -(1 << 31)], size)
    floats = random.choice([0.1, 0.5, 0.9, 3.0, -1.0, np.nan, np.inf, 1e38], size)
    return ints.astype(np.int32), floats


def numbers(kind: str, size: int, seed: int) -> Any:
    """An array, right or wrong, of numbers that are right or wrong."""
    ints, floats = drawn(size, seed)
    shared = bytearray(4 * size + 1)
    makers: dict[str, Callable[[], Any]] = {
        "int32": ints.copy,
        "float32": lambda: floats.astype(np.float32),
        "float64": floats.copy,
        "int64": lambda: ints.astype(np.int64),
        "bool": lambda: ints > 0,
        "array": lambda: array.array("i", ints.tolist()),
        "bytes": ints.tobytes,
        "bytearray": lambda: bytearray(ints.tobytes()),
        "every second": lambda: np.repeat(ints, 2)[::2],
        "odd address": lambda: np.ndarray(size, np.int32, shared, 1),
        "released": lambda: memoryview(shared),
        "square": lambda: np.stack([ints, ints]),
    }
    made = makers[kind]()
    if kind == "released":
        made.release()
    if kind == "int32" and seed % 16 == 0:
        made.flags.writeable = False
    return made


def arrays(*kinds: str, size: int = 12) -> st.SearchStrategy[Any]:
    """Nearly always of one of these kinds: calls take several, and few should be refused for it."""
    strange = st.sampled_from(SHAPES)
    seeds, sizes = st.integers(1, 99), st.integers(0, 20)
    right = st.builds(numbers, st.sampled_from(kinds), st.just(size), seeds)
    wrong = st.one_of(st.builds(numbers, st.sampled_from(kinds), sizes, seeds),
                      st.builds(numbers, strange, sizes, seeds), WRONG)  # fmt: skip
    return st.integers(0, 29).flatmap(lambda n: right if n < 28 else wrong)


INTS, REALS, DOUBLES = arrays("int32", "array"), arrays("float32"), arrays("float64")
FEW, MANY, BYTES = arrays("int32", size=5), arrays("int32", size=40), arrays("bytes", size=96)
TREE = (INTS, INTS, REALS, INTS)


@st.composite
def drafts(draw: Any) -> Any:
    """A tree, and then perhaps something is wrong about it."""
    count = draw(st.integers(0, 8))
    few = st.integers(0, 1 << 16).map(np.random.default_rng)
    made = SimpleNamespace(
        tokens=draw(few).integers(0, 5, count).astype(np.int32),
        parents=(draw(few).random(count) * (np.arange(count) + 1)).astype(np.int32) - 1,
        score=draw(few).random(count).astype(np.float32),
        rank=draw(few).integers(0, 4, count).astype(np.int32),
        riders=None,
        gains=[0.5, 0.25, draw(FLOATS)] if draw(st.booleans()) else (0.5,),
        lanes=draw(mostly(st.just(1), NUMBERS)),
    )
    if draw(st.booleans()):
        below: st.SearchStrategy[Any] = st.one_of(
            st.just((1, 2)), st.just([]), mostly(st.just((1,)), WRONG)
        )
        made.riders = [draw(below) for _ in range(count + 1)]
    for name in draw(mostly(st.just(()), st.sets(st.sampled_from(sorted(vars(made))), max_size=2))):
        if draw(st.booleans()):
            setattr(made, name, draw(st.one_of(INTS, REALS, WRONG, TOKENS, ENDLESS)))
        else:
            delattr(made, name)
    return made


DRAFT = mostly(st.one_of(st.none(), drafts()), WRONG)
DRAFTS = mostly(st.lists(DRAFT, min_size=2, max_size=2), st.one_of(st.lists(DRAFT), WRONG))

ONE, FIVE = mostly(st.just(1), NUMBERS), mostly(st.just(5), NUMBERS)

KINDS: dict[str, tuple[tuple[Any, ...], dict[str, tuple[Any, ...]]]] = {
    "Suffixes": (
        (mostly(st.sampled_from([2, 3, 16, 1000]), WRONG), mostly(INTS, WRONG)),
        {
            "extend": (TOKENS, NUMBERS),
            "matches": (NUMBERS,),
            "copy": (NUMBERS, NUMBERS, NUMBERS, *TREE),
            "reset": (),
            "__len__": (),
        },
    ),
    "Successors": (
        (mostly(st.sampled_from([1, 2]), WRONG), mostly(st.sampled_from([2, 3]), WRONG),
         mostly(st.sampled_from([1, 4, 64]), WRONG)),
        {
            "learn": (TOKENS, FEW, FEW, INTS, REALS, RATES),
            "count": (TOKENS, NUMBERS),
            "grow": (TOKENS, NUMBERS, NUMBERS, FLOATS, NUMBERS, NUMBERS, *TREE),
            "dump": (),
            "load": (DOUBLES, BYTES, BYTES),
            "__len__": (),
        },
    ),
    "Planner": (
        (mostly(st.just(2), NUMBERS), mostly(st.just(1e-3), FLOATS)),
        {
            "plan": (DRAFTS, ONE, NUMBERS, NUMBERS, FIVE, DOUBLES, INTS, *TREE),
            "riders": (NUMBERS,),
            "learn": (TOKENS, NUMBERS, REALS),
            "pace": (FLOATS, FLOATS),
        },
    ),
}  # fmt: skip


# --- what is done with it ------------------------------------------------------------------------


def parts(value: Any) -> list[Any]:
    """An argument and what it consists of, as far as references to it can be counted."""
    if isinstance(value, SimpleNamespace):
        return [value, *(part for inner in vars(value).values() for part in parts(inner))]
    if isinstance(value, list):
        return [value, *(part for inner in value for part in parts(inner))]
    return [value] if isinstance(value, np.ndarray | array.array) else []


def call(what: Any, arguments: list[Any]) -> Any:
    """Call it; nothing of what was passed may be held on to. None where it was refused."""
    found = parts(arguments)[1:]
    Shrinking.lists = [each for each in found if isinstance(each, list)]
    shrinks = "Shrinking" in repr(arguments)
    before = [sys.getrefcount(each) for each in found]
    try:
        result = what(*arguments)
    except REFUSED:
        result = None
    if isinstance(getattr(what, "__self__", None), FAST.Planner):
        what.__self__.forget()  # where drafts lie is remembered
    assert shrinks or [sys.getrefcount(each) for each in found] == before
    for each in found:
        if isinstance(each, array.array):
            each.append(0)  # refused while a buffer of it is held
            each.pop()
    return result


def check(name: str, arguments: list[Any], result: Any) -> None:
    if name in {"copy", "grow"} and result is not None:
        assert 0 <= result <= min(memoryview(each).nbytes // 4 for each in arguments[-4:])
    if name == "plan" and result is not None:
        assert 0 <= result[0] <= result[1] <= 512


@each
@given(data=st.data())
def wrong_arguments(kind: str, data: st.DataObject) -> None:
    first, methods = KINDS[kind]
    made = call(getattr(FAST, kind), [data.draw(each) for each in first])
    for _ in range(data.draw(st.integers(1, 6)) if made is not None else 0):
        name = data.draw(st.sampled_from(sorted(methods)))
        arguments = [data.draw(each) for each in methods[name]]
        if len(arguments) > 1 and not data.draw(st.integers(0, 9)):
            # One array for several things, or another number of arguments.
            arguments[-2] = arguments[-1]
            del arguments[data.draw(st.integers(0, 15)) or 99 :]
        check(name, arguments, call(getattr(made, name), arguments))
    if kind == "Planner" and made is not None:
        assert isinstance(made.value, float)


@each
@given(data=st.data())
def wrong_functions(data: st.DataObject) -> None:
    logits, seeds = data.draw(REALS), [data.draw(NUMBERS), data.draw(NUMBERS)]
    token = call(FAST.draw, [logits, data.draw(FLOATS), *seeds])
    assert token is None or -1 <= token < max(1, memoryview(logits).nbytes // 4)
    rows = call(FAST.lay, [data.draw(each) for each in (TOKENS, INTS, INTS, NUMBERS, INTS, INTS)])
    assert rows is None or rows > 0
    path = call(FAST.follow, [data.draw(each) for each in (INTS, INTS, MANY, NUMBERS)])
    assert path is None or list(path[0]) == sorted(path[0])


# --- one wrong argument among right ones ---------------------------------------------------------

WRONG_VALUES: list[Any] = [
    *([], [1], [1] * 600, [10**30], [None], [Raising()], [Shrinking(), *range(500)]),
    *(None, "7", 1.5, float("nan"), 10**30, Raising(), Shrinking(), range(1 << 62)),
    *(-2, -1, 0, 1, 500, *(s * (1 << b) - (s > 0) for b in (31, 32, 63) for s in (1, -1))),
    *((shape, size, 7) for shape in SHAPES[:4] for size in (0, 1, 5, 11, 13, 95, 97)),
    *((shape, size, 7) for shape in SHAPES[4:] for size in (5, 13)),
]


def wrong_value(index: int) -> Any:
    """Made anew where it is changed."""
    value = WRONG_VALUES[index]
    if isinstance(value, list):
        return [*value]
    return numbers(*value) if isinstance(value, tuple) else value


def tree(nodes: int) -> list[Any]:
    """Arrays to write to."""
    ints = [np.zeros(nodes, np.int32) for _ in range(3)]
    return [ints[0], ints[1], np.zeros(nodes, np.float32), ints[2]]


def draft() -> SimpleNamespace:
    tokens, parents = np.array([1, 2, 3, 4], np.int32), np.array([-1, 0, 1, -1], np.int32)
    score, rank = np.array([0.5, 0.9, 0.9, 0.2], np.float32), np.zeros(4, np.int32)
    return SimpleNamespace(tokens=tokens, parents=parents, score=score, rank=rank,
                           riders=[[1, 2], [3], [], [], [4]], gains=[0.5, 0.25],
                           lanes=1)  # fmt: skip


TEXT = [0, 1, 2, 3, 4, 1, 2, 3, 0, 1, 2, 4, 4, 4, 1, 2] * 3
IDS = np.arange(95, dtype=np.int32).reshape(5, 19) % 9


def text() -> Any:
    made = FAST.Suffixes(512)
    made.extend(TEXT, 0)
    return made


def table() -> Any:
    made = FAST.Successors(1, 3, 4)
    made.count(TEXT, 1)
    return made


def to_plan() -> list[Any]:
    return [[draft(), draft()], 1, 12, 9, 5, np.linspace(0, 1e-3, 12), np.array([4], np.int32),
            *tree(12)]  # fmt: skip


def planner() -> Any:
    made = FAST.Planner(2, 1e-3)
    made.plan(*to_plan())
    return made


RIGHT: dict[str, Callable[[], tuple[Any, list[Any]]]] = {
    "extend": lambda: (text().extend, [[*TEXT], 0]),
    "matches": lambda: (text().matches, [3]),
    "copy": lambda: (text().copy, [12, 4, 1, *tree(12)]),
    "learn": lambda: (table().learn, [[*TEXT], IDS[0, :4].copy(), np.array([-1, 0, 1, 1], np.int32),
                                      IDS.copy(), np.ones((5, 19), np.float32), 1.0]),
    "count": lambda: (table().count, [[*TEXT], 1]),
    "grow": lambda: (table().grow, [[*TEXT], 12, 9, 0.7, 1, 2, *tree(12)]),
    "load": lambda: (table().load, [np.arange(12, dtype=np.uint64), bytes(384), bytes(384)]),
    "plan": lambda: (planner().plan, to_plan()),
    "riders": lambda: (planner().riders, [12]),
    "credit": lambda: (planner().learn, [[1, 2, 3, 0], 3, np.zeros(4, np.float32)]),
    "pace": lambda: (planner().pace, [1.0, 1e-3]),
    "draw": lambda: (FAST.draw, [np.ones(70, np.float32), 0.7, 1, 2]),
    "lay": lambda: (FAST.lay, [[*TEXT], IDS[0, :4].copy(), np.array([-1, 0, 1, 1], np.int32), 2,
                               *(np.zeros(60, np.int32) for _ in range(2))]),
    "follow": lambda: (FAST.follow, [IDS[0, :4].copy(), np.array([-1, 0, 1, 1], np.int32),
                                     np.ones(7, np.int32), 1]),
}  # fmt: skip


def one_wrong_argument() -> None:
    for name, right in RIGHT.items():
        what, arguments = right()
        what(*arguments)
        for place in range(len(arguments)):
            for index in range(len(WRONG_VALUES)):
                what, arguments = right()
                arguments[place] = wrong_value(index)
                check(name, arguments, call(what, arguments))
            for other in range(place):
                what, arguments = right()
                arguments[other] = arguments[place]
                check(name, arguments, call(what, arguments))


def one_wrong_part_of_a_draft() -> None:
    for part in vars(draft()):
        for index in range(len(WRONG_VALUES)):
            what, arguments = RIGHT["plan"]()
            setattr(arguments[0][1], part, wrong_value(index))
            check("plan", arguments, call(what, arguments))


if __name__ == "__main__":
    faulthandler.enable()
    for name in KINDS:
        wrong_arguments(name)
    wrong_functions()
    one_wrong_argument()
    one_wrong_part_of_a_draft()
    print("no crash")
