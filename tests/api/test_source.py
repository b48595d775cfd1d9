"""Models with an encoder: a prompt is a source, and what is written is a text of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import edgedec
from edgedec import manifest
from edgedec.errors import (
    BundleError,
    EdgedecError,
    InputError,
    StateError,
    UnsupportedError,
    UsageError,
)
from edgedec.model import Model


@pytest.fixture
def reader(source_bundle: Path, fake_device: None) -> Iterator[Model]:
    with edgedec.load(source_bundle, device="fake") as loaded:
        yield loaded


def test_the_text_depends_on_the_source_alone(reader: Model) -> None:
    one, other = (reader.generate(text, max_new_tokens=20) for text in ("Hello", "Hullo"))
    assert one.tokens != other.tokens
    assert one.prompt_tokens == 5
    assert reader.generate("Hello", max_new_tokens=20).tokens == one.tokens
    reader.reset()
    assert [g.tokens for g in reader.generate(["Hullo", "Hello"], max_new_tokens=20)] == [
        other.tokens,
        one.tokens,
    ]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_drafts_change_nothing(source_bundle: Path, fake_device: None, temperature: float) -> None:
    texts = []
    for strategy in ("plain", "auto", "aggressive"):
        with edgedec.load(source_bundle, device="fake", strategy=strategy, policy="fixed") as model:
            done = model.generate("abc abc", max_new_tokens=40, temperature=temperature, seed=3)
            texts.append(done.tokens)
    assert texts[0] == texts[1] == texts[2]


def test_several_texts_of_one_source(reader: Model) -> None:
    drawn = reader.generate(
        "Hello", num_return_sequences=3, temperature=1.0, seed=5, max_new_tokens=8
    )
    alone = [reader.generate("Hello", temperature=1.0, seed=s, max_new_tokens=8) for s in (5, 6, 7)]
    assert [each.tokens for each in drawn] == [each.tokens for each in alone]
    best = reader.generate("Hello", num_beams=4, num_return_sequences=2, max_new_tokens=8)
    scores = [each.score for each in best]
    assert scores == sorted(scores, key=lambda s: -(s or 0))
    assert best[0].tokens != best[1].tokens


def test_a_text_is_scored_for_its_source(reader: Model) -> None:
    done = reader.generate("Hello", max_new_tokens=6)
    found = reader.score(done.text, "Hello")
    assert len(found.tokens) == len(found.logprobs)
    assert found.logprobs[0] is not None
    assert found.total > reader.score(done.text, "Goodbye").total
    with pytest.raises(UsageError, match=r"give score\(text, source\)"):
        reader.score("abc")


def test_a_decoder_alone_is_given_no_source(plain_bundle: Path, fake_device: None) -> None:
    with edgedec.load(plain_bundle, device="fake") as model:
        with pytest.raises(UsageError, match="reads no source"):
            model.score("abc", "def")
        with pytest.raises(UnsupportedError, match="does not hear"):
            model.transcribe(np.zeros(16000, np.float32))


def test_a_state_holds_what_was_read(reader: Model, source_bundle: Path, tmp_path: Path) -> None:
    first = reader.generate("Hello", max_new_tokens=10)
    reader.save(tmp_path / "state")
    reader.generate("Other", max_new_tokens=10)
    reader.load(tmp_path / "state")
    assert reader.generate("Hello", max_new_tokens=10).tokens == first.tokens
    (tmp_path / "state").write_bytes(b"nothing")
    with pytest.raises(StateError):
        reader.load(tmp_path / "state")
    assert reader.generate("Hello", max_new_tokens=10).tokens == first.tokens


@pytest.mark.parametrize(
    ("prompt", "kind", "message"),
    [
        ("", InputError, "the prompt is empty"),
        ("x" * 65, InputError, "has 65 tokens; the model reads up to 64 at a time"),
        (["fine", "y" * 80], InputError, "has 80 tokens"),
        ([{"role": "user", "content": "Hi"}], UnsupportedError, "not a chat model"),
    ],
)
def test_what_cannot_be_read(
    reader: Model, prompt: str, kind: type[EdgedecError], message: str
) -> None:
    before = reader.generate("Hello", max_new_tokens=5)
    with pytest.raises(kind, match=message):
        reader.generate(prompt)
    assert reader.generate("Hello", max_new_tokens=5).tokens == before.tokens


def test_a_bundle_that_does_not_say_how_the_decoder_begins(
    source_bundle: Path, fake_device: None, tmp_path: Path
) -> None:
    target = tmp_path / "silent"
    target.mkdir()
    for path in source_bundle.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    known = manifest.decode((target / manifest.FILE).read_bytes())
    model = known.architecture
    mute = replace(model, tokens=replace(model.tokens, decoder_start=None))
    (target / manifest.FILE).write_bytes(manifest.encode(replace(known, architecture=mute)))
    with pytest.raises(BundleError, match="no token that the decoder begins with"):
        edgedec.load(target, device="fake")
