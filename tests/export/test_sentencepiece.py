"""Converted tokenizers against the sentencepiece package itself, on generated text."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgedec.errors import CheckpointError
from edgedec.export.sentencepiece_model import merges, read_vocabulary, tokenizer_of

spm = pytest.importorskip("sentencepiece")

TEXT = """The lion lived in a cave by the sea, and the sea was loud at night.
"Where do the waves go?" asked the small fox; nobody knew, and nobody minded.
Every morning the fox ran to the shore (2 miles) and counted 1, 2, 3, 14, 159 waves.
The lion, who was old and cosy, said: do not count; listen. So the fox listened    quietly.
Ein süßer Käse, une crème brûlée, naïve façade: words from far away came with the wind.
""".splitlines()

KINDS: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "vocab_size": 420,
    },
    "bpe": {"model_type": "bpe", "vocab_size": 180, "user_defined_symbols": ["<sep>", "<se"]},
    "unigram": {"model_type": "unigram", "vocab_size": 120},
    "unigram-bytes": {
        "model_type": "unigram",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "vocab_size": 390,
        "user_defined_symbols": ["<sep>"],
    },
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 3),
        model_writer=model,
        minloglevel=2,
        hard_vocab_limit=False,
        control_symbols=["<turn>"],
        **KINDS[request.param],
    )
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return spm.SentencePieceProcessor(model_file=str(path)), tokenizer_of(read_vocabulary(path))


WORDS = st.sampled_from(
    [*" \t\n", "  ", "the", "fox", "ß", "é", "🦁", "👩‍🚀", "1", "...", "\u2581"]
)
STRINGS = st.one_of(
    st.text(max_size=40, alphabet=st.characters(exclude_categories=["Cs", "Mn", "Mc", "Me"])),
    st.lists(st.one_of(WORDS, st.text("aeiost ", max_size=8))).map("".join),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example("")
@example(" ")
@example("  two  spaces  ")
@example("\ttab and\nline ends\n\n")
@example("🦁 in the 🌊")
@example("before <sep>after<sep><sep> <se")
@example("aaaaaaaaaaa ssssss")
@given(STRINGS)
def test_the_ids_are_those_of_sentencepiece(pair: Any, text: str) -> None:
    theirs, ours = pair
    assert ours.encode(text).ids == theirs.encode(text)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example("  two  spaces  ")
@given(STRINGS)
def test_decoding_gives_what_sentencepiece_gives(pair: Any, text: str) -> None:
    theirs, ours = pair
    ids = theirs.encode(text)
    if theirs.unk_id() not in ids:
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)


def test_control_symbols_are_special_tokens(pair: Any) -> None:
    theirs, ours = pair
    turn = theirs.piece_to_id("<turn>")
    assert turn in ours.encode("the fox<turn>").ids
    assert "<turn>" not in ours.decode([turn])
    assert ours.get_vocab_size() == theirs.get_piece_size()


def test_every_cut_of_a_piece_is_a_merge_ranked_by_the_whole() -> None:
    scores = {"a": -5.0, "b": -6.0, "c": -7.0, "ab": -1.0, "bc": -0.5, "abc": -2.0}
    assert merges(scores) == [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")]


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        read_vocabulary(path)
