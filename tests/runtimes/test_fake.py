"""The pretend model: the contract of a session, checked on something that costs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgedec.contracts import TRUNK, Engine, Rows, Session, Want
from edgedec.errors import InputError, StateError, UsageError, WriteError
from edgedec.runtimes import fake
from edgedec.runtimes.fake import Fake

from .sources import MODELS

if TYPE_CHECKING:
    from edgedec.contracts import Floats


def rows(tokens: list[int], parents: list[int] | None = None) -> Rows:
    chosen = list(range(-1, len(tokens) - 1)) if parents is None else parents
    return Rows(np.array(tokens, np.int32), np.array(chosen, np.int32))


def after(engine: Engine, path: list[int]) -> Floats:
    """The logits after a path, from scratch."""
    return (
        engine.session().step(rows(path), want=Want(logits=(len(path) - 1,))).logits(len(path) - 1)
    )


def prompted(engine: Engine, path: list[int]) -> Session:
    session = engine.session()
    session.step(rows(path), want=Want(logits=()))
    session.keep([len(path) - 1])
    return session


def greedy(engine: Engine, path: list[int], count: int) -> list[int]:
    session, token, out = prompted(engine, path[:-1]), path[-1], []
    for _ in range(count):
        token = int(session.step(rows([token])).argmax()[0])
        session.keep([0])
        out.append(token)
    return out


def test_every_branch_of_a_tree_is_its_path() -> None:
    engine = Fake()
    session = prompted(engine, [1, 2, 3])
    result = session.step(rows([4, 5, 6, 7, 8], [-1, 0, 0, 1, -1]))
    for row, path in enumerate([[4], [4, 5], [4, 6], [4, 5, 7], [8]]):
        np.testing.assert_array_equal(result.logits(row), after(engine, [1, 2, 3, *path]))
    assert result.argmax().tolist() == [int(result.logits(row).argmax()) for row in range(5)]
    assert session.keep([2]) == (TRUNK,) and list(session.tokens) == [1, 2, 3, 4, 6]
    np.testing.assert_array_equal(
        session.step(rows([9])).logits(0), after(engine, [1, 2, 3, 4, 6, 9])
    )


def test_text_is_varied_and_yet_repeats_itself() -> None:
    text = greedy(Fake(), [1, 2, 3], 400)
    assert len(set(text)) > 30
    pairs = list(zip(text, text[1:], text[2:], strict=False))
    assert 0.1 < 1 - len(set(pairs)) / len(pairs) < 0.9
    assert text != greedy(Fake(), [1, 2, 4], 400)


def test_a_script_is_followed_and_then_ends() -> None:
    script = [3, 1, 4, 1, 5, 9, 2, 6]
    engine = Fake(script=script, eos=(0,))
    assert greedy(engine, script[:3], 6) == [1, 5, 9, 2, 6, 0]
    assert greedy(engine, [3, 1, 5], 3) != [9, 2, 6]


def test_early_exit_and_the_rest_give_the_whole() -> None:
    engine = Fake()
    session = prompted(engine, [1, 2])
    draft = session.step(rows([3, 4]), (range(1),), Want(hidden=(1,)))
    assert draft.hidden(1).shape == (2, engine.dim)
    whole = session.resume([0, 1], (range(1, 4),), Want(logits=(1,)))
    np.testing.assert_array_equal(whole.logits(1), after(engine, [1, 2, 3, 4]))
    assert whole.argmax()[0] == -1
    with pytest.raises(IndexError):
        whole.logits(0)
    with pytest.raises(IndexError):
        whole.hidden(4)
    assert session.keep([1]) == (TRUNK,)


def test_skipping_rows_agree_as_often_as_they_should() -> None:
    engine, agreed = Fake(agreement=0.7), 0
    for token in range(200):
        skipped = engine.session().step(rows([token]), (range(1), range(3, 4))).argmax()[0]
        agreed += int(skipped == engine.session().step(rows([token])).argmax()[0])
    assert 110 < agreed < 170


def test_further_rows_in_sight_and_hidden_rows_change_the_answer() -> None:
    engine = Fake()
    session = prompted(engine, [1])
    plain = session.step(rows([2, 3], [-1, -1])).logits(1).copy()
    seeing = Rows(np.array([3], np.int32), np.array([-1], np.int32), visible=[[0]])
    assert not np.array_equal(session.step(seeing).logits(0), plain)
    vector = np.ones((1, engine.dim), np.float32)
    entering = Rows(np.array([3], np.int32), np.array([-1], np.int32), hidden=vector)
    assert not np.array_equal(session.step(entering, (range(1, 4),)).logits(0), plain)


def test_learned_ids_count_by_their_vectors() -> None:
    engine = Fake()
    with pytest.raises(UsageError, match="256"):
        engine.session().step(rows([256]))
    engine.learn(np.zeros((1, 16), np.float32))
    first = engine.session().step(rows([256])).logits(0)
    assert engine.learn(np.ones((1, 16), np.float32)) == 257
    assert engine.learn(np.zeros((1, 16), np.float32)) == 256
    assert not np.array_equal(engine.session().step(rows([257])).logits(0), first)


def test_fork_and_truncate() -> None:
    engine = Fake()
    session = prompted(engine, [1, 2, 3])
    other = session.fork()
    session.truncate(2)
    np.testing.assert_array_equal(session.step(rows([9])).logits(0), after(engine, [1, 2, 9]))
    np.testing.assert_array_equal(other.step(rows([9])).logits(0), after(engine, [1, 2, 3, 9]))


def test_a_saved_session_goes_on(tmp_path: Path) -> None:
    engine = Fake()
    prompted(engine, [1, 2, 3]).save(tmp_path / "state")
    session = engine.session()
    session.load(tmp_path / "state")
    assert list(session.tokens) == [1, 2, 3]
    np.testing.assert_array_equal(session.step(rows([9])).logits(0), after(engine, [1, 2, 3, 9]))
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_saved_sessions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    prompted(Fake(), [1, 2, 3]).save(path)
    with pytest.raises(StateError, match="bundle"):
        Fake(vocab=300).session().load(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StateError, match="cannot be read"):
        Fake().session().load(path)
    with pytest.raises(StateError, match="cannot be read"):
        Fake().session().load(tmp_path / "missing")
    with pytest.raises(WriteError, match="cannot be saved"):
        Fake().session().save(tmp_path / "nowhere" / "state")


def test_a_source_changes_the_text() -> None:
    engine = Fake(encoder=True)
    session = engine.session()
    with pytest.raises(UsageError, match="encode"):
        session.step(rows([1]))
    seen = []
    for source in ([1, 2], [1, 3]):
        session.encode(np.array(source, np.int32))
        seen.append(session.step(rows([1])).logits(0))
    assert not np.array_equal(*seen)
    with pytest.raises(UsageError, match="no encoder"):
        Fake().session().encode(np.array([1], np.int32))


def test_a_source_is_saved_and_shared(tmp_path: Path) -> None:
    engine = Fake(encoder=True)
    session = engine.session()
    session.save(tmp_path / "before")
    session.encode(np.array([1, 2, 3], np.int32))
    session.step(rows([1]))
    session.keep([0])
    session.save(tmp_path / "state")
    expected = session.step(rows([5])).logits(0)
    other = engine.session()
    other.load(tmp_path / "state")
    for copy in (other, session.fork()):
        assert (copy.source_rows, copy.source_key) == (3, session.source_key)
        np.testing.assert_array_equal(copy.step(rows([5])).logits(0), expected)
    other.load(tmp_path / "before")
    assert (other.source_rows, other.source_key) == (0, "")
    with pytest.raises(UsageError, match="encode"):
        other.step(rows([5]))
    with pytest.raises(StateError, match="3 rows of a source"):
        Fake().session().load(tmp_path / "state")


def test_sources_that_a_model_does_not_read() -> None:
    with pytest.raises(InputError, match="empty"):
        Fake(encoder=True).session().encode(np.zeros(0, np.int32))
    session = Fake(encoder=True, reads=MODELS["whisper"]).session()
    session.encode(np.zeros((40, 8), np.float32))
    assert session.source_rows == 20
    with pytest.raises(UsageError, match="39 frames"):
        session.encode(np.zeros((39, 8), np.float32))
    assert session.source_rows == 20


def test_static_widths_and_limits() -> None:
    engine = Fake(row_widths=(1, 4), context=6)
    session = engine.session()
    with pytest.raises(UsageError, match="2 rows"):
        session.step(rows([1, 2]))
    session.step(rows([1, 2, 3, 4]))
    session.keep([3])
    with pytest.raises(InputError, match="holds 6"):
        session.step(rows([1, 2, 3, 4]))
    with pytest.raises(InputError, match="at most 512"):
        Fake().session().step(rows([1] * 513))


def test_top_k_is_sorted() -> None:
    result = Fake().session().step(rows([1, 2]))
    ids, values = result.topk(5)
    assert ids.shape == values.shape == (2, 5)
    for row in range(2):
        expected = np.sort(result.logits(row))[::-1][:5]
        np.testing.assert_array_equal(values[row], expected)
        np.testing.assert_array_equal(result.logits(row)[ids[row]], expected)
    for k in (0, 257):
        with pytest.raises(UsageError):
            result.topk(k)


@pytest.mark.parametrize(
    ("want", "layers"),
    [
        (Want(logits=(1,)), None),
        (Want(logits=(0, 0)), None),
        (Want(hidden=(5,)), None),
        (Want(hidden=(4,)), (range(1),)),
        (Want(), (range(1, 4),)),
    ],
)
def test_wishes_that_cannot_be_met(want: Want, layers: tuple[range, ...] | None) -> None:
    with pytest.raises(UsageError):
        Fake().session().step(rows([1]), layers, want)


def test_it_never_comes_by_surprise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEDEC_FAKE", raising=False)
    assert fake.devices() == []
    monkeypatch.setenv("EDGEDEC_FAKE", "1")
    assert [device.name for device in fake.devices()] == ["fake"]


def test_a_closed_model_answers_no_more() -> None:
    engine = Fake()
    session = engine.session()
    engine.close()
    with pytest.raises(UsageError, match="closed"):
        session.step(rows([1]))
