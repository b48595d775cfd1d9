"""Threads, forks, closed engines, rows that are no numbers, states and machines that do not fit."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from edgedec.contracts import Rows, Session, Want
from edgedec.devices import EngineOptions
from edgedec.errors import DeviceError, InputError, StateError, UsageError
from edgedec.runtimes import native
from edgedec.runtimes.native import _engine
from edgedec.runtimes.native.engine import KV_TYPES

from .plain import Plain, prefill, rows, same

if TYPE_CHECKING:
    from .conftest import Maker

PATH: list[int] = np.random.default_rng(4).integers(0, 90, 100).tolist()


def told(session: Session, seed: int, count: int) -> list[int]:
    """A prompt of one's own and what greedily follows."""
    path = np.random.default_rng(seed).integers(0, 90, 40 + seed).tolist()
    best = int(prefill(session, path).argmax()[-1])
    for _ in range(count):
        path.append(best)
        best = int(session.step(rows([best])).argmax()[0])
        session.keep([0])
    return [*path, best]


# --- threads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_sessions_side_by_side(make: Maker, threads: int) -> None:
    engine = make("plain").open(threads)
    alone = [told(engine.session(), seed, 30) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda seed: told(engine.session(), seed, 30), range(4))
        assert list(found) == alone


def raw_step(session: _engine.Session, count: int, width: int, **changed: Any) -> None:
    """A step of `count` rows behind an empty trunk, past the bookkeeping."""
    order = np.arange(count, dtype=np.int32)
    parts: dict[str, Any] = {
        "trunk": 0, "living": count, "dim": width, "handles": order, "positions": order,
        "visible": None, "tokens": order % 90, "vectors": None, "learned": None,
        "ranges": np.array([[0, 2]], np.int32), "head_rows": order, "layers": order[:0],
        "hidden": np.empty(0, np.float32),
    }  # fmt: skip
    session.step(*{**parts, **changed}.values())


def test_one_session_is_for_one_thread(make: Maker) -> None:
    engine = make("gemma").open(2)
    session = engine.session()._session
    nothing = np.zeros(0, np.int32)
    for _ in range(20):
        worker = threading.Thread(target=raw_step, args=(session, 512, 48))
        worker.start()
        try:
            while worker.is_alive():
                session.move(nothing, nothing)
        except _engine.Refused as error:
            assert "two threads use one session" in str(error)
            break
        finally:
            worker.join()
    else:
        pytest.fail("no step lasted long enough to be disturbed")
    raw_step(session, 5, 48)


# --- forks -------------------------------------------------------------------------------------


def in_child(work: Callable[[], None]) -> None:
    """Run it in a child process, which must end well within some seconds."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0
            return
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("idle", [0.0, 0.05])
def test_a_child_goes_on_where_it_was(make: Maker, idle: float) -> None:
    engine = make("windows").open(3)
    session, plain = engine.session(), Plain(make("windows").open())
    expected = [plain.logits([*PATH, *more]) for more in ([1], [1, 2])]
    prefill(session, PATH)

    def go_on() -> None:
        for token, logits in zip((1, 2), expected, strict=True):
            same(session.step(rows([token])).logits(0), logits)
            session.keep([0])
        prefill(engine.session(), PATH)

    time.sleep(idle)
    in_child(go_on)
    go_on()
    in_child(engine.close)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_a_step(make: Maker) -> None:
    engine = make("gemma").open(2)
    other = engine.session()
    prefill(other, PATH)
    expected = Plain(make("gemma").open()).logits([*PATH, 7])
    worker = threading.Thread(target=raw_step, args=(engine.session()._session, 512, 48))
    worker.start()
    in_child(lambda: same(other.step(rows([7])).logits(0), expected))
    worker.join()
    same(other.step(rows([7])).logits(0), expected)


# --- closing and failing -----------------------------------------------------------------------


def test_a_closed_engine(make: Maker, tmp_path: Path) -> None:
    engine = make("plain").open(2)
    session = engine.session()
    result = prefill(session, PATH)
    logits = result.logits(99)
    engine.close()
    same(result.logits(99), logits)
    with pytest.raises(UsageError, match="closed"):
        session.step(rows([1]))
    for refused in (engine.session, session.fork):
        with pytest.raises(UsageError, match="closed"):
            refused()
    engine.close()
    del session, result
    gc.collect()


def test_a_full_context(make: Maker) -> None:
    engine = make("llama").open(2)
    context = engine.architecture.limits.context
    path = (PATH * 3)[:context]
    session = engine.session()
    prefill(session, path[:-1])
    with pytest.raises(InputError, match=f"holds {context}"):
        session.step(rows([1, 2]))
    result = session.step(rows([path[-1]]))
    same(result.logits(0), Plain(engine).logits(path))
    session.keep([0])
    with pytest.raises(InputError, match=f"holds {context}"):
        session.step(rows([1]))
    with pytest.raises(InputError, match="at most"):
        engine.session().step(rows([1] * (engine.capabilities.max_rows + 1)))


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("name", ["plain4", "gemma", "post", "windows"])
def test_rows_that_are_no_numbers_stay_alone(
    make: Maker, name: str, bad: float, kv_type: str
) -> None:
    engine, vocab = make(name).open(2, kv_type), make(name).architecture.vocab
    plain = Plain(make(name).open(1, kv_type))
    engine.learn(np.full((1, engine.architecture.embed.dim), bad, np.float32))
    session = engine.session()
    prefill(session, PATH)
    result = session.step(rows([3, vocab, 4, vocab, 5], [-1, 0, 0, -1, 2]))
    for row, branch in ((0, [3]), (2, [3, 4]), (4, [3, 4, 5])):
        same(result.logits(row), plain.logits([*PATH, *branch]))
    assert (result.argmax() >= 0).all() and (result.argmax() < vocab).all()
    result.topk(5)
    session.keep([2])
    after = session.step(rows([6, 7, 8], [-1, -1, 0]))
    for row, branch in ((1, [7]), (2, [6, 8])):
        same(after.logits(row), plain.logits([*PATH, 3, 4, *branch]))


# --- saved states ------------------------------------------------------------------------------


def test_states_of_something_else(make: Maker, tmp_path: Path) -> None:
    session = make("plain").open().session()
    prefill(session, PATH)
    state = tmp_path / "state"
    session.save(state)
    for other in (make("plain").open(1, "int8"), make("plain4").open()):
        with pytest.raises(StateError, match=r"keys_and_values|bundle"):
            other.session().load(state)
    with safe_open(state, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        identity = file.metadata()
    foreign = tmp_path / "foreign"
    save_file(tensors, foreign, metadata={**identity, "runtime": "onnx"})
    fresh = make("plain").open().session()
    with pytest.raises(StateError, match="runtime onnx"):
        fresh.load(foreign)
    save_file({**tensors, "rows": tensors["rows"][:-1]}, foreign, metadata=identity)
    with pytest.raises(StateError, match="rows"):
        fresh.load(foreign)
    fresh.load(state)
    same(fresh.step(rows([1])).logits(0), session.step(rows([1])).logits(0))


# --- what the engine is asked with -------------------------------------------------------------

ORDER = np.arange(4, dtype=np.int32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dim": 32}, "another width"),
        ({"handles": ORDER[:0]}, "0 rows"),
        ({"handles": ORDER[::-1].copy()}, "handle"),
        ({"handles": ORDER - 1}, "handle -1"),
        ({"living": 3}, "4 rows, 3 living"),
        ({"living": 1 << 30}, "do not fit"),
        ({"trunk": -1}, "do not fit"),
        ({"trunk": (1 << 31) - 1}, "do not fit"),
        ({"positions": ORDER[:3]}, "a position for each row"),
        ({"positions": ORDER - 1}, "position -1"),
        ({"positions": ORDER + 1200}, "position 1200"),
        ({"tokens": ORDER[:3]}, "a token or a vector"),
        ({"tokens": ORDER + 300}, "token 300"),
        ({"tokens": ORDER - 1}, "token -1"),
        ({"tokens": None}, "tokens or vectors"),
        ({"vectors": np.zeros((3, 48), np.float32)}, "a token or a vector"),
        ({"visible": np.ones((4, 3), np.uint8)}, "visible"),
        ({"visible": np.zeros((4, 4), np.uint8)}, "does not see itself"),
        ({"ranges": ORDER[:0]}, "vectors"),
        ({"ranges": np.array([[0, 4]], np.int32)}, "layers 0 to 4 of 3"),
        ({"ranges": np.array([[1, 2]], np.int32)}, "must be vectors"),
        ({"ranges": np.array([[0, 2], [1, 3]], np.int32)}, "layers 1 to 3"),
        ({"head_rows": ORDER + 1}, "row 4 of 4"),
        ({"head_rows": ORDER - 1}, "row -1 of 4"),
        ({"layers": ORDER[:1]}, "hidden must be"),
    ],
)
def test_wrong_steps_are_refused(make: Maker, changed: dict[str, Any], message: str) -> None:
    session = make("plain").open().session()._session
    with pytest.raises(_engine.Refused, match=message):
        raw_step(session, 4, 48, **changed)
    raw_step(session, 4, 48)


def tree_step(session: Any, tree: list[int], /, **changed: Any) -> bool:
    count = len(tree)
    given: dict[str, Any] = {
        "trunk": 0, "position": 0, "most": 64, "ids": 90,
        "tokens": np.arange(count, dtype=np.int32), "parents": np.array(tree, np.int32),
        "learned": None, "ranges": np.array([[0, 2]], np.int32),
        "layers": np.zeros(0, np.int32), "hidden": np.empty(0, np.float32),
    }  # fmt: skip
    return bool(session.tree_step(*{**given, **changed}.values()))


@pytest.mark.parametrize(
    "changed",
    [
        {"tokens": ORDER + 87},
        {"tokens": ORDER - 1},
        {"tokens": ORDER[:3]},
        {"parents": ORDER},
        {"parents": ORDER - 2},
        {"position": 62},
        {"position": -1},
        {"layers": ORDER[:1]},
    ],
)
def test_what_is_no_tree_below_the_trunk_is_left_alone(make: Maker, changed: Any) -> None:
    session = make("plain").open().session()._session
    assert not tree_step(session, [-1, 0, 1, 2], **changed)
    assert session.tree_rows() == ([], [])
    with pytest.raises(_engine.Refused, match="no such row"):
        session.tree_keep(0, 0)


def test_a_path_of_a_tree_is_kept(make: Maker) -> None:
    session = make("plain").open().session()._session
    assert tree_step(session, [-1, 0, 0, 2])
    assert session.tree_rows() == ([0, 1, 2, 3], [-1, 0, 0, 2])
    for trunk, leaf in ((0, 4), (0, -2), (-1, 3), (1 << 30, 3)):
        with pytest.raises(_engine.Refused, match="no such row"):
            session.tree_keep(trunk, leaf)
    assert session.tree_keep(0, 3) == [0, 2, 3]
    with pytest.raises(_engine.Refused, match="no such row"):
        session.tree_keep(0, 0)
    with pytest.raises(_engine.Refused, match="layers 0 to 9"):
        tree_step(session, [-1], ranges=np.array([[0, 9]], np.int32))


def test_rows_are_what_they_were_when_they_were_stepped(make: Maker) -> None:
    engine = make("plain").open()
    one, other = engine.session(), engine.session()
    tokens, parents = np.array([5, 6, 7], np.int32), np.array([-1, 0, 0], np.int32)
    one.step(Rows(tokens, parents))
    other.step(Rows(tokens.copy(), parents.copy()))
    tokens[:], parents[:] = 9, -1
    for session in (one, other):
        session.step(Rows(np.array([8], np.int32), np.array([2], np.int32)))
        session.keep([3])
    assert list(one.tokens) == list(other.tokens) == [5, 7, 8]


def test_wrong_questions_are_refused(make: Maker) -> None:
    session = make("plain").open().session()._session
    raw_step(session, 4, 48)
    ids, values = np.empty((4, 2), np.int32), np.empty((4, 2), np.float32)
    for wrong in (
        lambda: session.argmax(ids[:1]),
        lambda: session.topk(2, ids[:3], values),
        lambda: session.topk(0, ids, values),
        lambda: session.logits(4, values),
        lambda: session.logits(-1, values),
        lambda: session.move(ORDER[1:2], ORDER[2:3]),
        lambda: session.move(ORDER[:2], ORDER[:1]),
        lambda: session.move(ORDER[:1] + 100000, ORDER[:1]),
        lambda: session.get(-1),
        lambda: session.get(1 << 30),
        lambda: session.set(ORDER, b"too few"),
    ):
        with pytest.raises(_engine.Refused):
            wrong()
    session.topk(2, ids, values)


# --- machines ----------------------------------------------------------------------------------


def test_an_unknown_instruction_set(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDEC_ISA", "sse9")
    with pytest.raises(DeviceError, match=r"EDGEDEC_ISA is 'sse9'.*portable"):
        make("plain").open()
    [device] = native.devices()
    assert device.problem is not None and "sse9" in device.problem
    monkeypatch.setenv("EDGEDEC_ISA", "portable")
    assert make("plain").open().isa == "portable"
    [device] = native.devices()
    assert device.problem is None and "portable" in device.description


def test_the_engine_was_not_built(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make("plain").bundle
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    [device] = native.devices()
    assert device.problem is not None and "install a C compiler" in device.problem
    with pytest.raises(DeviceError, match="C compiler"):
        native.open(bundle, EngineOptions())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (EngineOptions(device="gpu"), DeviceError),
        (EngineOptions(threads=0), UsageError),
        (EngineOptions(kv_type="fp8"), UsageError),
    ],
)
def test_options_that_do_not_fit(make: Maker, options: EngineOptions, error: type) -> None:
    with pytest.raises(error):
        native.open(make("plain").bundle, options)


def test_results_belong_to_the_latest_step(make: Maker) -> None:
    session = make("plain").open().session()
    old = session.step(rows([1]), want=Want(hidden=(0,)))
    session.step(rows([2]))
    with pytest.raises(UsageError, match="another step"):
        old.logits(0)
