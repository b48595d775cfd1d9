"""The tagger in training: it learns what the model did, and its part guesses what it guesses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgedec.contracts import Context, Source  # noqa: E402
from edgedec.errors import UnsupportedError, UsageError  # noqa: E402
from edgedec.export import to_part  # noqa: E402
from edgedec.host import Files, Scratch  # noqa: E402
from edgedec.manifest import Format  # noqa: E402
from edgedec.runtimes import native  # noqa: E402
from edgedec.strategies.edit_tags import EditTags  # noqa: E402
from edgedec.training.edit_tags import EditTagger, Options, build  # noqa: E402
from edgedec.training.frozen import Frozen  # noqa: E402
from edgedec.training.teacher import Kept  # noqa: E402
from edgedec.training.texts import (  # noqa: E402
    Shuffled,
    Texts,
    Written,
    batch_of,
    dice_of,
    held_batches,
)
from tests.decode.selfdrafted import model, texts_of  # noqa: E402
from tests.decode.test_edit_tags import TEXT  # noqa: E402
from tests.native import variants  # noqa: E402

pytestmark = pytest.mark.skipif(not native.built(), reason="the C engine was not built")

OPTIONS = Options(batch=4, length=40, width=32, rate=0.01)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> variants.Model:
    return model(tmp_path_factory.mktemp("models"), "mu-like")


@pytest.fixture(scope="module")
def texts() -> Texts:
    """Copies of sources with edits that follow a rule: 7 is dropped, 8 becomes 9, and 5 is followed
    by 6."""
    dice = np.random.default_rng(2)
    found = []
    for _ in range(24):
        source = dice.integers(2, 14, 12).tolist()
        told: list[int] = []
        for token in source:
            told += {7: [], 8: [9], 5: [5, 6]}.get(token, [token])
        ids = (np.array(each, np.int32) for each in ([0, *told, 1], [*source, 1]))
        tokens, read = ids
        found.append(Written(tokens, 1, read, True))
    return Texts(found[:20], found[20:], "rule")


def taught(frozen: Frozen, texts: Texts, steps: int) -> tuple[EditTagger, list[float]]:
    torch.manual_seed(0)
    trainee = build(frozen, OPTIONS, texts)
    learned, losses = Shuffled((*texts.trained, *texts.held), OPTIONS, 1), []
    optimiser = torch.optim.AdamW(trainee.parameters(), lr=OPTIONS.rate)
    for step in range(steps):
        loss = trainee.loss(learned.batch(step))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return trainee, losses


def test_it_learns_what_the_model_does(made: variants.Model, texts: Texts) -> None:
    frozen = Frozen.of(made.bundle)
    torch.manual_seed(0)
    before = build(frozen, OPTIONS, texts).acceptance(next(held_batches(texts, OPTIONS)))
    trainee, losses = taught(frozen, texts, 120)
    assert np.mean(losses[-5:]) < 0.1 * np.mean(losses[:5])
    after = trainee.acceptance(next(held_batches(texts, OPTIONS)))
    assert after.expected > max(6.0, 2 * before.expected)
    assert len(after.right) == len(after.asked) == 8


def test_its_part_guesses_what_it_guesses(
    made: variants.Model, texts: Texts, tmp_path: Path
) -> None:
    """The network of the part, run by the engine, against torch's."""
    trainee, _ = taught(Frozen.of(made.bundle), texts, 80)
    source = replace(trainee.part(made.bundle.hash), format=Format(kind="int8", block=32))
    to_part.write(tmp_path / "edit_tags.safetensors", source, made.architecture)
    engine = made.open()
    part = native.open_part(tmp_path / "edit_tags.safetensors", made.bundle, engine, None)
    right = asked = 0
    for text in (*texts.trained[:8], *texts.held):
        assert text.source is not None
        session = engine.session()
        session.encode(text.source)
        files = Files(lambda path: engine, open_part=lambda name: part)
        host = Scratch(engine, session, made.architecture, files, TEXT)
        assert EditTags().needs(host).topk == 0
        drafter = EditTags().open(host)
        read = Source(tuple(text.source.tolist()), "")
        tree = drafter.propose(Context([0], 1, 0, 0.0, read), 32)
        batch = next(held_batches(Texts((), [text], ""), OPTIONS))
        with torch.no_grad():
            rows, real = trainee._rows(batch)
            expected = trainee._guess(list(read.tokens), trainee.mixed(rows, real)[0], rows[0])
        asked += len(expected)
        right += sum(a == b for a, b in zip(tree.tokens.tolist(), expected, strict=False))
    # Eight bits may tip a tag that was nearly even.
    assert right >= 0.9 * asked


def test_texts_that_were_cut_teach_what_they_reached(made: variants.Model) -> None:
    """A text without its end says nothing of the rest of its source."""
    (end,) = made.architecture.tokens.eos[:1]
    read = np.array([3, 4, 5, 6, 7, end], np.int32)
    whole = Written(np.array([0, 3, 9, 5, end], np.int32), 1, read, True)
    cut = Written(np.array([0, 3, 9, 5], np.int32), 1, read, True)
    nothing = Written(np.array([0, 9], np.int32), 1, read, True)
    trainee = build(Frozen.of(made.bundle), OPTIONS, Texts((), (), ""))
    both = batch_of([whole, cut], OPTIONS.length, dice_of(0, 0))
    known = trainee._lesson(both).known
    assert known.tolist() == [[True] * 6, [True] * 3 + [False] * 3]
    empty = batch_of([nothing], OPTIONS.length, dice_of(0, 0))
    assert float(trainee.loss(empty)["loss"].detach()) == 0.0


def test_texts_side_by_side_are_as_alone(made: variants.Model, texts: Texts) -> None:
    """What fills up is seen by no row."""
    trainee = build(Frozen.of(made.bundle), OPTIONS, texts)
    short = Written(np.array([0, 3, 1], np.int32), 1, np.array([3, 5, 1], np.int32), True)
    both = next(held_batches(Texts((), [short, texts.held[0]], ""), OPTIONS))
    alone = next(held_batches(Texts((), [short], ""), OPTIONS))
    with torch.no_grad():
        rows, real = build(Frozen.of(made.bundle), OPTIONS, texts)._rows(both)
        own, ends = trainee._rows(alone)
        torch.testing.assert_close(rows[0, :3], own[0], rtol=1e-4, atol=1e-4)
        mixed, expected = trainee.mixed(rows, real), trainee.mixed(own, ends)
        torch.testing.assert_close(mixed[0, :3], expected[0], rtol=1e-3, atol=1e-3)
        assert not mixed[0, 3:].any()


def test_rows_that_are_kept_are_those_of_before(made: variants.Model, texts: Texts) -> None:
    trainee = build(Frozen.of(made.bundle), OPTIONS, texts)
    batch = next(held_batches(texts, OPTIONS))
    first, real = trainee._rows(batch)
    assert len(trainee._kept._found) == len(batch.tokens)
    again, same = trainee._rows(batch)
    assert (again == first).all()
    assert (same == real).all()
    # After a break, and where there is no room, they are made anew: the same.
    trainee._kept = Kept(0)
    anew, _ = trainee._rows(batch)
    assert (anew == first).all()
    assert not trainee._kept._found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 40}, "width is 40; it is a multiple of 16"),
        ({"width": -16}, "width is -16"),
        ({"inserted": 0}, "inserted is 0; it is 1 to 8"),
        ({"inserted": 9}, "inserted is 9"),
    ],
)
def test_what_could_not_be_stored_is_refused(
    made: variants.Model, texts: Texts, options: dict[str, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build(Frozen.of(made.bundle), replace(OPTIONS, **options), texts)


def test_by_itself_it_is_half_as_wide_as_the_model(made: variants.Model, texts: Texts) -> None:
    frozen = Frozen.of(made.bundle)
    part = build(frozen, Options(), texts).part("x")
    assert part.matrices["tags"].shape == (9, frozen.dim // 2)


def test_a_model_that_reads_no_source_cannot_be_tagged(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made = model(tmp_path_factory.mktemp("models"), "plain", 2)
    with pytest.raises(UnsupportedError, match="no such encoder"):
        build(Frozen.of(made.bundle), OPTIONS, texts_of(made, 4))
