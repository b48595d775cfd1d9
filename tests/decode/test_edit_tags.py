"""Tags of a source: what they make of it, and no other words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from msgspec.structs import replace

from edgedec.accept import Rule
from edgedec.architecture import Embedding
from edgedec.contracts import Context, Needs, Source
from edgedec.costs import flat
from edgedec.decode import Loop, Tally
from edgedec.errors import StateError, UnsupportedError
from edgedec.host import Files, Scratch
from edgedec.passage import Words
from edgedec.plan import Planner
from edgedec.runtimes import native
from edgedec.sampling import Sampler, Sampling
from edgedec.strategies.aggressive import Aggressive
from edgedec.strategies.edit_tags import Editor, EditTags, beside
from edgedec.tagging import DROP, KEEP, KINDS
from edgedec.text import Text
from tests.native import variants

from .headed import Headed, silu, unit
from .looped import architecture, fake
from .selfdrafted import model
from .test_strategies import Numbers

pytestmark = pytest.mark.skipif(not native.built(), reason="the C engine was not built")

WIDTH, MOST = 16, 2
SOURCE = Source((5, 9, 13, 2, 40, 7, 7, 21), "5 9 13 2 40 7 7 21")
TEXT = cast("Text", Numbers())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> variants.Model:
    return model(tmp_path_factory.mktemp("models"), "mu-like")


def part(made: variants.Model, **others: np.ndarray) -> Headed:
    """A part of random numbers, sure of what it says, with the model's ids."""
    dice, dim = np.random.default_rng(6), made.architecture.embed.dim
    vocab = made.architecture.vocab

    def drawn(rows: int, inputs: int, scale: float = 1.0) -> np.ndarray:
        return (scale * dice.standard_normal((rows, inputs)) / np.sqrt(inputs)).astype(np.float32)

    given = {
        "mix": drawn(WIDTH, 3 * dim, 4.0),
        "widen": drawn(WIDTH, 3 * WIDTH, 2.0),
        "tags": drawn(KINDS * (MOST + 1), WIDTH, 4.0),
        "replace": drawn(dim, WIDTH + dim),
        "insert": drawn(MOST * dim, WIDTH),
        "norm": np.ones(dim, np.float32),
        "head": drawn(vocab, dim, 6.0),
    }
    given |= {f"{n}.bias": drawn(1, len(given[n]))[0] for n in ("mix", "widen", "tags")}
    return Headed({"inserted": MOST}, given | others, ids=np.arange(vocab, dtype=np.int32))


def host_of(made: variants.Model, found: Any, session: Any = None, engine: Any = None) -> Scratch:
    engine = engine or made.open()
    files = Files(lambda path: engine, open_part=lambda name: found)
    return Scratch(engine, session or engine.session(), made.architecture, files, TEXT)


def editor(made: variants.Model, found: Any, source: Source = SOURCE) -> Editor:
    """A drafter whose session has read the source."""
    engine = made.open()
    session = engine.session()
    session.encode(np.array(source.tokens, np.int32))
    return EditTags().open(host_of(made, found, session, engine))


def guess(drafter: Editor, source: Source = SOURCE) -> tuple[list[int], list[float]]:
    """What it copies, from the first token on."""
    tree = drafter.propose(Context([0], 1, 0, 0.0, source), 63)
    assert tree.parents.tolist() == list(range(-1, len(tree.tokens) - 1))
    return tree.tokens.tolist(), tree.score.tolist()


# --- what it guesses -----------------------------------------------------------------------------


def by_hand(made: variants.Model, found: Headed) -> list[tuple[int, float]]:
    """The guess, row by row, in double precision."""
    session = made.open().session()
    session.encode(np.array(SOURCE.tokens, np.int32))
    assert session.source_states is not None
    rows = [unit(row.astype(np.float64)) for row in session.source_states]
    named = found.tensors

    def layer(name: str, lines: list[np.ndarray], at: int) -> np.ndarray:
        nothing = np.zeros_like(lines[0])
        before = lines[at - 1] if at else nothing
        behind = lines[at + 1] if at + 1 < len(lines) else nothing
        seen = np.concatenate([before, lines[at], behind])
        return silu(named[name] @ seen + named[f"{name}.bias"])

    def shares(x: np.ndarray) -> tuple[int, float]:
        logits = named["head"] @ unit(x)
        best = np.sort(logits)[::-1][:8]
        return int(logits.argmax()), float(1 / np.exp(best - best[0]).sum())

    first = [layer("mix", rows, at) for at in range(len(rows))]
    mixed = [first[at] + layer("widen", first, at) for at in range(len(rows))]
    guessed, waiting = [], 1.0
    for at, x in enumerate(mixed):
        tags = named["tags"] @ x + named["tags.bias"]
        sure = np.exp(tags - tags.max()) / np.exp(tags - tags.max()).sum()
        best = int(sure.argmax())
        kind, count = best % KINDS, best // KINDS
        waiting *= sure[kind::KINDS].sum()
        if kind != DROP:
            token, share = SOURCE.tokens[at], 1.0
            if kind != KEEP:
                token, share = shares(named["replace"] @ np.concatenate([x, rows[at]]))
            guessed.append((token, waiting * share))
            waiting = 1.0
        waiting *= sure[best] / sure[kind::KINDS].sum()
        for nth in range(count):
            dim = len(rows[at])
            token, share = shares(named["insert"][nth * dim :][:dim] @ x)
            guessed.append((token, waiting * share))
            waiting = 1.0
    return guessed


def test_the_guess_is_what_the_network_says(made: variants.Model) -> None:
    found = part(made)
    tokens, scores = guess(editor(made, found))
    expected = by_hand(made, found)
    assert tokens == [token for token, _ in expected]
    assert scores == pytest.approx([share for _, share in expected], rel=1e-3)
    # The case is worth something: some tokens stay, and some do not.
    tags = editor(made, found)._edited
    assert tags is not None and len(set(tags.tags.kinds.tolist())) == KINDS
    assert tags.tags.counts.any()


def test_a_network_that_keeps_all_copies_the_source(made: variants.Model) -> None:
    bias = np.zeros(KINDS * (MOST + 1), np.float32)
    bias[KEEP] = 100
    tokens, scores = guess(editor(made, part(made, **{"tags.bias": bias})))
    assert tokens == list(SOURCE.tokens)
    assert scores == pytest.approx([1.0] * len(tokens))


def test_without_the_encoders_rows_it_copies_the_source(
    made: variants.Model, tmp_path: Path
) -> None:
    """A session that was loaded knows keys and values, but no rows."""
    engine = made.open()
    session = engine.session()
    session.encode(np.array(SOURCE.tokens, np.int32))
    session.save(tmp_path / "state")
    other = engine.session()
    other.load(tmp_path / "state")
    assert other.source_states is None and other.source_rows == len(SOURCE.tokens)
    drafter = EditTags().open(host_of(made, part(made), other, engine))
    assert guess(drafter)[0] == list(SOURCE.tokens)


def test_a_source_is_tagged_once(made: variants.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = made.open()
    session = engine.session()
    drafter = EditTags().open(host_of(made, part(made), session, engine))
    seen: list[int] = []
    tag = drafter._tagger.tag

    def counted(states: np.ndarray) -> Any:
        seen.append(len(states))
        return tag(states)

    monkeypatch.setattr(drafter._tagger, "tag", counted)
    for length in (8, 8, 5, 8):
        session.encode(np.array(SOURCE.tokens[:length], np.int32))
        for _ in range(2):
            drafter.reset()
    assert seen == [8, 5, 8]


def test_rows_and_those_beside_them() -> None:
    rows = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
    expected = [[0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [3, 4, 5, 6, 0, 0]]
    np.testing.assert_array_equal(beside(rows), expected)
    np.testing.assert_array_equal(beside(rows[:1]), [[0, 0, 1, 2, 0, 0]])


# --- no other words ------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_text_is_plain_decodings(made: variants.Model, temperature: float) -> None:
    rule = Rule(Sampler.build(Sampling(temperature=temperature, seed=3)), frozenset(), 40)

    def written(strategies: Sequence[Any]) -> tuple[list[int], Tally]:
        engine = made.open()
        session = engine.session()
        host = host_of(made, part(made), session, engine)
        drafters = [(each.open(host), False) for each in strategies]
        planner = Planner(drafters, flat(growth=0.01), made.architecture.vocab, "fixed")
        looped, tally = Loop(session, host, planner, Needs()), Tally()
        looped.encode(np.array(SOURCE.tokens, np.int32), SOURCE)
        steps = looped.run([0], rule, tally)
        return [each.token for step in steps for each in step], tally

    plain, _ = written([])
    for strategies in ([EditTags()], [EditTags(tokens=5, branches=3), Aggressive()]):
        drafted, tally = written(strategies)
        assert drafted == plain
        assert tally.evaluated > 0


# --- what cannot be used -------------------------------------------------------------------------


def test_what_cannot_tag_says_so(made: variants.Model) -> None:
    engine = fake()
    without = Scratch(engine, engine.session(), architecture(), Files(lambda path: engine), TEXT)
    with pytest.raises(UnsupportedError, match="no such encoder"):
        EditTags().needs(without)
    blind = fake(encoder=True)
    model = architecture(encoder=True)
    host = Scratch(blind, blind.session(), model, Files(lambda path: blind), TEXT)
    with pytest.raises(UnsupportedError, match="does not show: use native"):
        EditTags().needs(host)
    host = host_of(made, part(made))
    own = Embedding(vocab=9, dim=made.architecture.embed.dim)
    host.architecture = replace(made.architecture, source_embed=own)
    with pytest.raises(UnsupportedError, match="no such encoder"):
        EditTags().needs(host)
    with pytest.raises(UnsupportedError, match="no trained part for edit_tags"):
        EditTags().needs(host_of(made, None))


@pytest.mark.parametrize("inserted", [0, 99, "2", None])
def test_a_part_says_how_many_tokens_it_puts_in(made: variants.Model, inserted: Any) -> None:
    found = part(made)
    found.about["inserted"] = inserted
    with pytest.raises(StateError, match="its inserted is"):
        EditTags().needs(host_of(made, found))


@pytest.mark.parametrize(
    ("name", "rows"), [("tags", 7), ("replace", 8), ("insert", 16), ("widen", 8), ("mix", 24)]
)
def test_a_part_of_other_sizes_is_refused(made: variants.Model, name: str, rows: int) -> None:
    found = part(made)
    inputs = found.tensors[name].shape[1]
    found.tensors[name] = np.zeros((rows, inputs), np.float32)
    found.tensors.pop(f"{name}.bias", None)
    with pytest.raises(StateError, match="the part of edit_tags"):
        EditTags().open(host_of(made, found))


def test_words_leave_out_what_is_no_text() -> None:
    class Silent(Numbers):
        def push(self, token: int) -> str:
            return "" if token == 7 else f" {token}"

    passage, shown = Words(cast("Text", Silent())).written([5, 7, 9])
    assert passage.tokens == (5, 9) and shown == [True, False, True]
