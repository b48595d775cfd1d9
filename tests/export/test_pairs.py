"""Whole exports of encoder-decoder checkpoints: tokenizers, decoding, verification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedec import rooms
from edgedec.bundle import open_bundle
from edgedec.errors import BundleError, CheckpointError, InputError
from edgedec.export.pipeline import ExportOptions, export_model
from edgedec.export.verify import held_out_pair
from edgedec.manifest import Decoding
from edgedec.models import describe
from edgedec.text import Text

from .conftest import byte_tokenizer, write_checkpoint


def config(family: str, **changes: object) -> dict[str, Any]:
    return {**rooms.load("edgedec.models", family).TINY, "vocab_size": 300, **changes}


@pytest.mark.parametrize("family", ["t5", "bart", "mu"])
def test_a_bundle_computes_what_the_checkpoint_computes(family: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny", config(family))
    generation = {"forced_bos_token_id": 5, "suppress_tokens": [7]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    options = ExportOptions(forms=("onnx",), kind="fp32")
    manifest = export_model(str(folder), tmp_path / "out", options).manifest
    assert manifest.quality is not None
    assert manifest.quality.max_error < 1e-4
    assert manifest.quality.tokens == min(256, manifest.architecture.limits.context)
    assert manifest.decoding == Decoding(forced={0: 5}, suppressed=(7,))
    assert open_bundle(tmp_path / "out").manifest == manifest


def test_a_checkpoint_without_a_decoder_start_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny", config("t5"))
    fields = config("t5", decoder_start_token_id=None)
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match="decoder_start_token_id"):
        export_model(str(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_encoder_reads_the_text_and_the_decoder_writes_it() -> None:
    tokenizer = byte_tokenizer()
    architecture, _ = describe(config("bart"))
    sample = held_out_pair(architecture, tokenizer, tokenizer)
    assert (len(sample.ids), sample.ids[0], sample.name) == (128, 2, "heldout.txt")
    assert sample.source is not None
    np.testing.assert_array_equal(sample.ids[1:], sample.source[:127])


def test_a_long_source_keeps_its_end(tmp_path: Path) -> None:
    from edgedec.export.tokenizer_files import add_ends

    tokenizer = byte_tokenizer()
    add_ends(tokenizer, (False, None), (True, 2))
    architecture, _ = describe(config("bart"))
    sample = held_out_pair(architecture, tokenizer, tokenizer)
    assert sample.source is not None
    assert (len(sample.source), sample.source[-1]) == (128, 2)
    text = tmp_path / "empty.txt"
    text.write_text("")
    with pytest.raises(InputError, match=r"empty\.txt holds no token"):
        held_out_pair(architecture, byte_tokenizer(), byte_tokenizer(), text)


@pytest.mark.parametrize(("family", "shape"), [("whisper", (120, 20)), ("moonshine", (16000, 1))])
def test_a_model_that_hears_is_given_noise(family: str, shape: tuple[int, int]) -> None:
    tokenizer = byte_tokenizer()
    architecture, _ = describe(config(family))
    sample = held_out_pair(architecture, tokenizer, tokenizer)
    again = held_out_pair(architecture, tokenizer, tokenizer)
    assert sample.source is not None and again.source is not None
    assert sample.source.shape == shape
    np.testing.assert_array_equal(sample.source, again.source)


def text_of(folder: Path, family: str, **changes: object) -> Text:
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return Text.open(folder, describe(config(family, **changes))[0])


def test_one_tokenizer_serves_both_sides(tmp_path: Path) -> None:
    text = text_of(tmp_path, "t5")
    assert text.encode_source("ab") == text.encode("ab")


def test_the_encoder_s_own_tokenizer_reads(tmp_path: Path) -> None:
    other = byte_tokenizer()
    other.add_tokens(["ab"])
    other.save(str(tmp_path / "tokenizer.source.json"))
    text = text_of(tmp_path, "marian", decoder_vocab_size=259)
    assert len(text.encode("ab")) == 2
    assert text.encode_source("ab") == [259]
    with pytest.raises(InputError, match="not valid Unicode"):
        text.encode_source("a\ud800")


def test_tokenizers_that_do_not_belong_to_their_side_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json has 259 entries, but the decoder only"):
        text_of(tmp_path, "marian", decoder_vocab_size=258)
    with pytest.raises(BundleError, match=r"259 entries, but the encoder only 258"):
        text_of(tmp_path, "marian", vocab_size=258, decoder_vocab_size=259)
    (tmp_path / "tokenizer.source.json").write_text("{")
    with pytest.raises(BundleError, match=r"tokenizer\.source\.json is not a tokenizer"):
        text_of(tmp_path, "marian", decoder_vocab_size=259)
