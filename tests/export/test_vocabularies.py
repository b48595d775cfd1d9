"""Tokenizers of folders without a tokenizer.json, against sentencepiece and transformers."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from edgedec import rooms
from edgedec.architecture import Architecture
from edgedec.errors import CheckpointError
from edgedec.export.pipeline import ExportOptions, export_model
from edgedec.export.tokenizer_files import TokenizerFiles, tokenizer_files
from edgedec.manifest import Decoding
from edgedec.models import describe
from edgedec.text import Text

from .conftest import random_weights

spm = pytest.importorskip("sentencepiece")

ENGLISH = """The lion lived in a cave by the sea, and the sea was loud at night.
"Where do the waves go?" asked the small fox; nobody knew, and nobody minded.
Every morning the fox ran to the shore (2 miles) and counted 1, 2, 3, 14, 159 waves.
The lion, who was old and cosy, said: do not count; listen. So the fox listened quietly.
""".splitlines()
FRENCH = """Le lion vivait dans une grotte au bord de la mer, et la mer était bruyante la nuit.
« Où vont les vagues ? » demanda le petit renard ; personne ne le savait.
Chaque matin le renard courait au rivage et comptait les vagues, une à une.
Le lion, qui était vieux et tranquille, dit : ne compte pas, écoute.
""".splitlines()

SENTENCES = ["The fox listened quietly.", "the sea, the sea", "  two   spaces ", "", "naïve 🦁 x",
             "Le renard écoute la mer.", "1, 2, 3\nwaves\tgo"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(["the ", "fox", " sea", "é", "🦁", "waves", ", ", "le lion "]))


def train(path: Path, lines: list[str], size: int = 110, **more: Any) -> Any:
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 3), model_writer=model, minloglevel=2,
        hard_vocab_limit=False, vocab_size=size, **more,
    )  # fmt: skip
    path.write_bytes(model.getvalue())
    return spm.SentencePieceProcessor(model_file=str(path))


def model(family: str, vocab: int, **changes: object) -> Architecture:
    config = {**rooms.load("edgedec.models", family).TINY, "vocab_size": vocab, **changes}
    return describe(config)[0]


def opened(files: TokenizerFiles, folder: Path, architecture: Architecture) -> Text:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(files.json)
    if files.source is not None:
        (folder / "tokenizer.source.json").write_text(files.source)
    return Text.open(folder, architecture)


# --- T5 and Pegasus --------------------------------------------------------------------------


T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "pad_piece": "<pad>"}


@pytest.mark.parametrize(("family", "extra"), [("t5", None), ("t5", 7), ("mt5", None)])
def test_t5_s_sentinels_fall_behind_the_pieces(
    family: str, extra: int | None, tmp_path: Path
) -> None:
    theirs = train(tmp_path / "spiece.model", ENGLISH, **T5_IDS)
    count = {"t5": 100, "mt5": 0}[family] if extra is None else extra
    if extra is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"extra_ids": extra}))
    size = theirs.get_piece_size()
    files = tokenizer_files(tmp_path, model(family, size + count + 5))
    ours = Tokenizer.from_str(files.json)
    assert ours.get_vocab_size() == size + count
    assert files.eos == (1,)
    for text in SENTENCES:
        assert ours.encode(text).ids == [*theirs.encode(text), 1]
    for i in range(count):
        assert ours.token_to_id(f"<extra_id_{i}>") == size + count - 1 - i
    if count:
        ids = ours.encode("the <extra_id_0> sea").ids
        assert ids == [*theirs.encode("the"), size + count - 1, *theirs.encode("sea"), 1]


def test_pegasus_has_103_ids_in_front(tmp_path: Path) -> None:
    theirs = train(tmp_path / "spiece.model", ENGLISH, **T5_IDS)
    files = tokenizer_files(tmp_path, model("pegasus", theirs.get_piece_size() + 103))
    ours = Tokenizer.from_str(files.json)
    for text in SENTENCES:
        assert ours.encode(text).ids == [*(i + 103 for i in theirs.encode(text)), 1]
    assert [ours.id_to_token(i) for i in (0, 1, 2, 3, 4, 104, 105)] == [
        "<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>", "<unk_102>", "<unk>",
    ]  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("family", ["t5", "pegasus"])
def test_spiece_models_read_as_in_transformers(family: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    train(tmp_path / "spiece.model", ENGLISH, **T5_IDS)
    kind = {"t5": "T5Tokenizer", "pegasus": "PegasusTokenizer"}[family]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    architecture = model(family, 400)
    text = opened(tokenizer_files(tmp_path, architecture), tmp_path / "bundle", architecture)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for sentence in map(" ".join, map(str.split, SENTENCES)):  # it strips spaces in its own way
        ids = theirs(sentence).input_ids
        assert text.encode_source(sentence) == ids, sentence
        known = theirs.unk_token_id not in ids
        if known:
            assert text.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


# --- Marian ----------------------------------------------------------------------------------


@pytest.fixture
def marian(tmp_path: Path) -> Path:
    """Two models and their ids in an order of neither, with a language code."""
    source = train(tmp_path / "source.spm", ENGLISH)
    target = train(tmp_path / "target.spm", FRENCH)
    pieces = [m.id_to_piece(i) for m in (target, source) for i in range(m.get_piece_size())]
    names = ["</s>", "<unk>", *sorted(p for p in set(pieces) if not p.startswith("<"))]
    ids = {name: i for i, name in enumerate([*names, ">>fra<<", "<pad>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "marian"}))
    config = {"source_lang": "en", "target_lang": "fr", "tokenizer_class": "MarianTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def shared(folder: Path) -> Architecture:
    ids = json.loads((folder / "vocab.json").read_text())
    return model(
        "marian", len(ids), share_encoder_decoder_embeddings=True, decoder_vocab_size=None,
        pad_token_id=ids["<pad>"], decoder_start_token_id=ids["<pad>"],
    )  # fmt: skip


def test_marian_reads_with_one_model_and_writes_with_the_other(marian: Path) -> None:
    ids = json.loads((marian / "vocab.json").read_text())
    architecture = shared(marian)
    text = opened(tokenizer_files(marian, architecture), marian / "bundle", architecture)
    for file, encode in (("source.spm", text.encode_source), ("target.spm", text.encode)):
        theirs = spm.SentencePieceProcessor(model_file=str(marian / file))
        for sentence in SENTENCES:
            pieces = theirs.encode(sentence, out_type=str)
            assert encode(sentence) == [*(ids.get(p, ids["<unk>"]) for p in pieces), ids["</s>"]]
    assert text.decode(text.encode("Le renard écoute la mer.")) == "Le renard écoute la mer."
    # The decoder may write what only the other model cuts a text into.
    assert text.decode(text.encode_source("the fox listened")) == "the fox listened"
    assert text.encode_source(">>fra<< the fox")[0] == ids[">>fra<<"]
    assert text.encode_source(">>fra<< the fox")[1:] == text.encode_source("the fox")


def test_a_marian_folder_becomes_a_bundle(marian: Path, tmp_path: Path) -> None:
    """Two tokenizers, bad words, verification with what each side reads."""
    count = len(json.loads((marian / "vocab.json").read_text()))
    config = {
        **rooms.load("edgedec.models", "marian").TINY, "vocab_size": count,
        "decoder_vocab_size": count, "share_encoder_decoder_embeddings": True,
        "pad_token_id": count - 1, "decoder_start_token_id": count - 1,
        "bad_words_ids": [[count - 1]], "forced_eos_token_id": 0,
    }  # fmt: skip
    (marian / "config.json").write_text(json.dumps(config))
    save_file(random_weights(config), marian / "model.safetensors")
    options = ExportOptions(forms=("onnx",), kind="fp32")
    manifest = export_model(str(marian), tmp_path / "out", options).manifest
    assert manifest.quality is not None and manifest.quality.max_error < 1e-4
    assert manifest.decoding == Decoding(forced_last=0, suppressed=(count - 1,))
    assert {"tokenizer.json", "tokenizer.source.json"} <= manifest.files.keys()
    text = Text.open(tmp_path / "out", manifest.architecture)
    assert text.encode_source("the fox") != text.encode("the fox")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(["🦁", "🦁", "é"])
@given(TEXTS)
def test_no_text_reads_as_a_piece_of_the_other_language(marian: Path, words: list[str]) -> None:
    ids = json.loads((marian / "vocab.json").read_text())
    source = spm.SentencePieceProcessor(model_file=str(marian / "source.spm"))
    text = " ".join(words)  # apart: several unknown characters in a row are one piece of theirs
    files = tokenizer_files(marian, shared(marian))
    assert files.source is not None
    expected = [ids.get(piece, ids["<unk>"]) for piece in source.encode(text, out_type=str)]
    assert Tokenizer.from_str(files.source).encode(text).ids[:-1] == expected


def test_languages_may_have_an_id_file_each(marian: Path) -> None:
    target = spm.SentencePieceProcessor(model_file=str(marian / "target.spm"))
    names = ["</s>", "<unk>"]
    names += [target.id_to_piece(i) for i in range(3, target.get_piece_size())]
    written = {name: i for i, name in enumerate([*names, "<pad>"])}
    (marian / "target_vocab.json").write_text(json.dumps(written))
    read = json.loads((marian / "vocab.json").read_text())
    start = {"decoder_vocab_size": len(written), "decoder_start_token_id": 3}
    architecture = model("marian", len(read), **start)
    text = opened(tokenizer_files(marian, architecture), marian / "bundle", architecture)
    assert text.encode("la mer")[:-1] == [written[p] for p in target.encode("la mer", out_type=str)]
    assert text.encode_source("the sea")[-1] == read["</s>"]
    with pytest.raises(CheckpointError, match="entries, the model only"):
        tokenizer_files(marian, model("marian", len(read) - 1, **start))


@pytest.mark.parametrize(
    ("content", "says"), [("[1]", "damaged"), ('{"a": 0}', "no <unk>"), ('{"a": 1, "b": 1}', "ids")]
)
def test_a_broken_id_file_is_named(marian: Path, content: str, says: str) -> None:
    (marian / "vocab.json").write_text(content)
    with pytest.raises(CheckpointError, match=f"vocab.json.*{says}"):
        tokenizer_files(marian, model("marian", 500, decoder_vocab_size=500))
    (marian / "vocab.json").unlink()
    with pytest.raises(CheckpointError, match=r"vocab\.json"):
        tokenizer_files(marian, model("marian", 500, decoder_vocab_size=500))


@pytest.mark.full
def test_marian_reads_and_writes_as_in_transformers(marian: Path) -> None:
    from transformers import MarianTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = MarianTokenizer.from_pretrained(marian)
    architecture = shared(marian)
    text = opened(tokenizer_files(marian, architecture), marian / "bundle", architecture)
    for sentence in [*SENTENCES, ">>fra<< the fox listened"]:
        assert text.encode_source(sentence) == theirs(sentence).input_ids, sentence
        target = theirs(text_target=sentence).input_ids
        if sentence.startswith(">>"):  # a code is for the encoder
            continue
        assert text.encode(sentence) == target, sentence
        if theirs.unk_token_id not in target:
            assert text.decode(target) == theirs.decode(target, skip_special_tokens=True)


# --- ByT5 ------------------------------------------------------------------------------------


def test_byt5_needs_no_file(tmp_path: Path) -> None:
    architecture = model("t5", 384)
    files = tokenizer_files(tmp_path, architecture)
    text = opened(files, tmp_path / "bundle", architecture)
    assert Tokenizer.from_str(files.json).get_vocab_size() == 384
    for sentence in [*SENTENCES, "\x00\x7f é 🦁 \n\n"]:
        ids = [*(byte + 3 for byte in sentence.encode()), 1]
        assert text.encode_source(sentence) == ids
        assert text.decode(ids) == sentence
    assert text.decode([0xC3 + 3, 0x41 + 3]) == "\ufffdA"
    assert files.eos == (1,)


@pytest.mark.full
def test_byt5_reads_as_in_transformers(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    theirs, ours = (
        ByT5Tokenizer(),
        Tokenizer.from_str(tokenizer_files(tmp_path, model("t5", 384)).json),
    )
    for sentence in [*SENTENCES, "a<extra_id_0>b<extra_id_124>"]:
        assert ours.encode(sentence).ids == theirs(sentence).input_ids


# --- BART, CodeT5 ----------------------------------------------------------------------------


@pytest.fixture
def byte_pairs(tmp_path: Path) -> Path:
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        ENGLISH * 3, vocab_size=330, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    )
    trained.save_model(str(tmp_path))
    return tmp_path


def test_a_byte_level_vocabulary_goes_both_ways(byte_pairs: Path) -> None:
    architecture = model("bart", 340)
    files = tokenizer_files(byte_pairs, architecture)
    text = opened(files, byte_pairs / "bundle", architecture)
    for sentence in SENTENCES:
        ids = text.encode_source(sentence)
        assert (ids[0], ids[-1]) == (0, 2)
        assert text.decode(ids) == sentence
    assert text.encode("the <mask> sea").count(4) == 1


def test_broken_merges_are_named(byte_pairs: Path) -> None:
    (byte_pairs / "merges.txt").write_text("#version: 0.2\nzzz qqq\n")
    with pytest.raises(CheckpointError, match=r"merges\.txt"):
        tokenizer_files(byte_pairs, model("bart", 340))


@pytest.mark.full
@pytest.mark.parametrize("prefix", [False, True])
def test_byte_pairs_read_as_in_transformers(byte_pairs: Path, prefix: bool) -> None:
    from transformers import RobertaTokenizer

    config = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": prefix}
    (byte_pairs / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = RobertaTokenizer.from_pretrained(byte_pairs)
    ours = Tokenizer.from_str(tokenizer_files(byte_pairs, model("bart", 340)).json)
    for sentence in [*SENTENCES, "the <mask> sea", "the<mask>sea</s>"]:
        assert ours.encode(sentence).ids == theirs(sentence).input_ids, sentence


# --- Whisper, and nothing at all ---------------------------------------------------------------


def test_added_tokens_of_a_tokenizer_file_are_kept(byte_pairs: Path) -> None:
    architecture = model("whisper", 340)
    made = Tokenizer.from_str(tokenizer_files(byte_pairs, architecture).json)
    made.add_special_tokens(["<|startoftranscript|>", "<|en|>", "<|notimestamps|>"])
    made.add_tokens(["<|0.00|>"])
    made.save(str(byte_pairs / "tokenizer.json"))
    kept = opened(tokenizer_files(byte_pairs, architecture), byte_pairs / "bundle", architecture)
    ids = kept.encode("<|en|><|0.00|> the sea", special=False)
    assert [kept.token(i) for i in ids[:2]] == ["<|en|>", "<|0.00|>"]
    assert kept.decode(ids) == "<|0.00|> the sea"


@pytest.mark.parametrize("family", ["t5", "bart", "marian"])
def test_a_folder_without_a_vocabulary_is_refused(family: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        tokenizer_files(tmp_path, model(family, 112))
