"""What a model writes to be learned from: its own continuations, kept, and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.full

import edgedec  # noqa: E402 - needs torch
from edgedec.bundle import Bundle, cache_folder  # noqa: E402
from edgedec.errors import InputError, UnsupportedError, WriteError  # noqa: E402
from edgedec.training import texts  # noqa: E402
from edgedec.training.texts import Shuffled, Writing, batch_of, dice_of, gather  # noqa: E402
from edgedec.training.trainee import Options, points  # noqa: E402

from .conftest import PROMPTS  # noqa: E402

if TYPE_CHECKING:
    from .conftest import Stopper

WRITING = Writing(tokens=400, length=24)


def kept_file() -> Path:
    (path,) = (cache_folder() / "training" / "texts").iterdir()
    return path


def test_texts_are_what_the_model_writes(tiny: Bundle, prompts: Path) -> None:
    shares: list[float] = []
    found = gather(tiny, [prompts], WRITING, shares.append)
    assert 400 <= found.tokens < 400 + 24
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    everything = [*found.trained, *found.held]
    assert 0.2 < np.mean([text.greedy for text in everything]) < 0.5
    with edgedec.load(tiny.path, strategy="plain") as model:
        for text in everything:
            if not text.greedy:
                continue
            start = bytes_of(model, text.tokens[: text.prompt])
            plain = model.generate(start, max_new_tokens=24)
            assert plain.tokens == tuple(text.tokens[text.prompt :][: len(plain.tokens)])


def bytes_of(model: edgedec.Model, tokens: np.ndarray) -> str:
    start = "".join(model.pieces(tokens.tolist()))
    assert start in PROMPTS
    return start


def test_prompts_that_are_held_out_are_never_trained_on(tiny: Bundle, prompts: Path) -> None:
    found = gather(tiny, [prompts], Writing(tokens=800, length=24))
    assert found.held
    assert found.trained
    trained, held = (
        {tuple(text.tokens[: text.prompt]) for text in part} for part in (found.trained, found.held)
    )
    assert not trained & held


def test_nothing_is_written_twice(
    tiny: Bundle, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = gather(tiny, [prompts], WRITING)
    monkeypatch.setattr(texts, "_write", None)
    again = gather(tiny, [prompts], WRITING)
    assert again.key == first.key
    for mine, other in zip(again.trained, first.trained, strict=True):
        np.testing.assert_array_equal(mine.tokens, other.tokens)
    # Fewer tokens are the first of them.
    assert gather(tiny, [prompts], Writing(tokens=100, length=24)).tokens < 100 + 24


def test_where_enough_is_kept_the_model_is_not_opened(
    tiny: Bundle, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = gather(tiny, [prompts], WRITING)
    monkeypatch.setattr("edgedec.runtimes.native.built", lambda: False)
    monkeypatch.setattr("edgedec.api.assemble", None)
    again = gather(tiny, [prompts], WRITING)
    assert (again.key, again.tokens) == (first.key, first.tokens)


def test_writing_goes_on_where_it_stopped(tiny: Bundle, prompts: Path, stop_after: Stopper) -> None:
    whole = gather(tiny, [prompts], WRITING)
    path = kept_file()
    path.unlink()
    for times in (1, 2, 3):
        gather(tiny, [prompts], WRITING, stop=stop_after(times))
        # A killed process may leave half a line.
        with path.open("ab") as file:
            file.write(b"[7,3,[1,2")
    found = gather(tiny, [prompts], WRITING)
    assert found.key == whole.key
    for mine, other in zip(found.trained, whole.trained, strict=True):
        np.testing.assert_array_equal(mine.tokens, other.tokens)


def test_other_prompts_and_settings_are_other_texts(tiny: Bundle, prompts: Path) -> None:
    keys = {gather(tiny, [prompts], WRITING).key}
    keys.add(gather(tiny, [prompts], Writing(tokens=400, length=20)).key)
    keys.add(gather(tiny, [prompts], Writing(tokens=400, length=24, seed=1)).key)
    prompts.write_text("\n".join(PROMPTS[1:]))
    keys.add(gather(tiny, [prompts], WRITING).key)
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no prompt"),
        (b" \n\n", "holds no prompt"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not UTF-8"),
        (b'{"text": "no prompt"}', "give either prompt"),
        (b"only one", "at least two"),
        (b"only one\nonly one", "at least two"),
        (b"x" * 200 + b"\n" + b"y" * 200, "longer than the context"),
    ],
)
def test_files_that_are_no_prompts(
    tiny: Bundle, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        gather(tiny, [path], WRITING)


def test_a_missing_file(tiny: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        gather(tiny, [tmp_path / "none.txt"], WRITING)


def test_a_cache_that_cannot_be_written(
    tiny: Bundle, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEDEC_CACHE", str(tmp_path / "file"))
    with pytest.raises(WriteError, match="EDGEDEC_CACHE"):
        gather(tiny, [prompts], WRITING)


# --- batches -------------------------------------------------------------------------------------


def some(count: int) -> list[texts.Written]:
    random = np.random.default_rng(0)
    return [
        texts.Written(random.integers(1, 90, size=random.integers(8, 40)).astype(np.int32), 5)
        for _ in range(count)
    ]


def test_a_batch_is_filled_up_on_the_right() -> None:
    chosen = [*some(3), texts.Written(np.arange(50, dtype=np.int32), 45)]
    batch = batch_of(chosen, 32, dice_of(0, 0))
    assert batch.tokens.shape == (4, 32)
    assert batch.lengths.tolist() == [min(32, len(text.tokens)) for text in chosen]
    assert batch.prompts.tolist() == [5, 5, 5, 32]
    for row, text in zip(batch.tokens, chosen, strict=True):
        length = min(32, len(text.tokens))
        assert row[:length].tolist() == text.tokens[:length].tolist()
        assert not row[length:].any()


def test_every_text_comes_once_in_an_epoch() -> None:
    written, options = some(25), Options(batch=4, length=40)
    batches = Shuffled(written, options, seed=3)
    epochs = [[batches.batch(step) for step in range(7 * epoch, 7 * epoch + 7)] for epoch in (0, 1)]
    for epoch in epochs:
        seen = [
            tuple(row[:n].tolist())
            for b in epoch
            for row, n in zip(b.tokens, b.lengths, strict=True)
        ]
        assert sorted(seen) == sorted(tuple(text.tokens.tolist()) for text in written)
    assert not all(torch.equal(a.tokens, b.tokens) for a, b in zip(*epochs, strict=True))
    again = Shuffled(written, options, seed=3).batch(9)
    assert torch.equal(again.tokens, epochs[1][2].tokens)
    drawn = [torch.rand(3, generator=b.dice) for b in (again, epochs[1][2])]
    assert torch.equal(*drawn)


def test_texts_without_a_word_of_the_model_are_left_out() -> None:
    with pytest.raises(InputError, match="no text to train on"):
        Shuffled(some(3), Options(length=6), seed=0)


def test_points_stand_in_what_the_model_wrote() -> None:
    batch = batch_of([*some(6), texts.Written(np.arange(7, dtype=np.int32), 5)], 32, dice_of(0, 4))
    place, valid = points(batch, 12, room=3)
    assert place.shape == valid.shape == (7, 12)
    for row, length, there in zip(place, batch.lengths, valid, strict=True):
        chosen = row[there].tolist()
        assert chosen == sorted(set(chosen))
        assert len(chosen) == min(12, max(0, int(length) - 3 - 4))
        assert all(4 <= p < length - 3 for p in chosen)


def test_a_model_that_hears_is_refused(tiny: Bundle, prompts: Path) -> None:
    from dataclasses import replace

    from msgspec.structs import replace as changed

    from ..native.variants import described  # noqa: TID252

    spec, _ = described("whisper-like")
    hearing = replace(tiny, manifest=changed(tiny.manifest, architecture=spec))
    with pytest.raises(UnsupportedError, match="this model hears"):
        gather(hearing, [prompts], WRITING)
