"""What is taken from a folder's tokenizer files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, processors

from edgedec import rooms
from edgedec.architecture import Architecture
from edgedec.errors import CheckpointError
from edgedec.export.tokenizer_files import TokenizerFiles, add_ends, fitted, tokenizer_files
from edgedec.models import describe

from .conftest import byte_tokenizer

BOS, EOS = 1, 2


def model(vocab: int, family: str = "llama", **changes: object) -> Architecture:
    config = {**rooms.load("edgedec.models", family).TINY, "vocab_size": vocab, **changes}
    return describe(config)[0]


def read(folder: Path, tokenizer: Tokenizer | None = None, **config: object) -> TokenizerFiles:
    (tokenizer or byte_tokenizer()).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer_files(folder, model(300))


def ends(files: TokenizerFiles) -> tuple[bool, bool]:
    ids = Tokenizer.from_str(files.json).encode("ab").ids
    return ids[0] == BOS, ids[-1] == EOS


@pytest.mark.parametrize("bos", [True, False, None])
@pytest.mark.parametrize("eos", [True, False, None])
@pytest.mark.parametrize("already", [True, False])
def test_bos_and_eos_are_as_the_config_wishes(
    tmp_path: Path, bos: bool | None, eos: bool | None, already: bool
) -> None:
    tokenizer = byte_tokenizer()
    if already:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
        )
    wishes = {"add_bos_token": bos, "add_eos_token": eos}
    files = read(tmp_path, tokenizer, bos_token="<s>", eos_token={"content": "</s>"}, **wishes)
    assert ends(files) == (already if bos is None else bos, already if eos is None else eos)
    assert files.eos == (EOS,)


def test_pairs_get_their_ends_too() -> None:
    tokenizer = byte_tokenizer()
    add_ends(tokenizer, (True, BOS), (True, EOS))
    a, b = (tokenizer.token_to_id(letter) for letter in "ab")
    assert tokenizer.encode("a", "b").ids == [BOS, a, EOS, BOS, b, EOS]


def test_special_tokens_may_stand_in_their_own_file(tmp_path: Path) -> None:
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')
    assert ends(read(tmp_path, add_bos_token=True)) == (True, False)


def test_added_tokens_beyond_the_model_are_dropped() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(["<image>"])
    vocab = tokenizer.get_vocab_size() - 1
    smaller = fitted(tokenizer, vocab)
    assert smaller.get_vocab_size() == vocab
    assert smaller.decode(smaller.encode("see <image>").ids) == "see <image>"


def test_a_smaller_tokenizer_is_fine(tmp_path: Path) -> None:
    assert Tokenizer.from_str(read(tmp_path).json).get_vocab_size() == 259


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"tokenizer_config.json": {"chat_template": "plain"}}, "plain"),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [
                        {"name": "tool_use", "template": "tools"},
                        {"name": "default", "template": "chosen"},
                    ]
                }
            },
            "chosen",
        ),
        ({"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "r"}]}}, "r"),
        ({"tokenizer_config.json": {"chat_template": [{"name": "odd"}, 3]}}, None),
        (
            {
                "chat_template.json": {"chat_template": "beside"},
                "tokenizer_config.json": {"chat_template": "plain"},
            },
            "beside",
        ),
        ({"chat_template.json": {"chat_template": "b"}, "chat_template.jinja": "own"}, '"own"'),
    ],
)
def test_the_chat_template_is_found(
    tmp_path: Path, files: dict[str, object], expected: str | None
) -> None:
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert tokenizer_files(tmp_path, model(300)).chat_template == expected


def test_sentencepiece_gets_a_bos_unless_the_config_says_no(tmp_path: Path) -> None:
    spm = pytest.importorskip("sentencepiece")
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(["the lion and the fox lived by the sea"] * 20),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=40,
        model_type="bpe",
        minloglevel=2,
    )
    theirs = spm.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    settings = {"bos_token": "<s>", "eos_token": "</s>"}
    for wish, start in ((None, [theirs.bos_id()]), (False, [])):
        config = settings if wish is None else {**settings, "add_bos_token": wish}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        ours = Tokenizer.from_str(tokenizer_files(tmp_path, model(40)).json)
        assert ours.encode("the sea").ids == start + theirs.encode("the sea")


def test_a_broken_template_file_is_named(tmp_path: Path) -> None:
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja"):
        tokenizer_files(tmp_path, model(300))
