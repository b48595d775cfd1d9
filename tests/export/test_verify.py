"""The figures of the damage report, against sums done by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from edgedec.errors import InputError, UnsupportedError
from edgedec.export.pipeline import ExportOptions, export_model
from edgedec.export.verify import compare, held_out

from .conftest import byte_tokenizer


def test_the_figures_of_two_rows() -> None:
    expected = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], np.float32))
    found = np.log(np.array([[0.25, 0.75], [0.9, 0.1]], np.float32)) + np.float32(3)
    quality = compare(expected, iter(found), "by hand")
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert quality.kl == pytest.approx(first / 2, abs=1e-6)
    assert quality.top1 == 0.5
    assert quality.max_error == pytest.approx(3 + math.log(1.5), abs=1e-5)
    assert (quality.tokens, quality.text) == (2, "by hand")


def test_equal_logits_are_undamaged() -> None:
    logits = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    quality = compare(logits, iter(logits), "same")
    assert (quality.kl, quality.top1, quality.max_error) == (0.0, 1.0, 0.0)


def test_nan_is_never_kept(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgedec.export import verify

    rows = np.full((96, 300), np.nan, np.float32)
    monkeypatch.setattr(verify, "_logits", lambda engine, ids: iter(rows))
    with pytest.raises(UnsupportedError, match="NaN or Inf"):
        export_model(str(checkpoint), tmp_path / "out", ExportOptions(kind="int4"))
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_the_text_is_ours_or_a_file(tmp_path: Path) -> None:
    ours = held_out(byte_tokenizer(), 1000)
    assert (len(ours.ids), ours.name) == (256, "heldout.txt")
    text = tmp_path / "own.txt"
    text.write_text("A short text.")
    theirs = held_out(byte_tokenizer(), 8, text)
    assert (len(theirs.ids), theirs.name) == (8, "own.txt")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\xfa"])
def test_a_text_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes | None) -> None:
    text = tmp_path / "own.txt"
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(InputError, match=r"own\.txt"):
        held_out(byte_tokenizer(), 100, text)
