"""Tokenizers of folders that have no tokenizer.json: by the vocabulary files that are there.

T5 and Pegasus ship a SentencePiece model whose ids they extend, Marian two of them whose ids stand
in a file of their own, BART a byte-level vocabulary with merges, ByT5 nothing at all. Knows nothing
about weights or graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgedec.detokenise import byte_characters
from edgedec.errors import CheckpointError
from edgedec.export.sentencepiece_model import Piece, Vocabulary, read_vocabulary, tokenizer_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAIR = ("source.spm", "target.spm")
IDS, TARGET_IDS, MERGES = "vocab.json", "target_vocab.json", "merges.txt"
BYTES = 256
MASKS = ("<mask_1>", "<mask_2>")
"""Pegasus's: a sentence, a word."""


def of_t5(path: Path, extra: int) -> Tokenizer:
    """A SentencePiece model, then `extra` sentinels in falling order."""
    vocabulary = read_vocabulary(path)
    sentinels = (Piece(f"<extra_id_{i}>", 0.0, "control") for i in reversed(range(extra)))
    return tokenizer_of(replace(vocabulary, pieces=(*vocabulary.pieces, *sentinels)))


def of_pegasus(path: Path, offset: int) -> Tokenizer:
    """A SentencePiece model behind `offset` ids that only its training used."""
    vocabulary = read_vocabulary(path)
    names = ["<pad>", "</s>"]
    if offset:
        names += [*MASKS, *(f"<unk_{i}>" for i in range(2, offset))]
    first = (Piece(name, 0.0, "control") for name in names)
    return tokenizer_of(replace(vocabulary, pieces=(*first, *vocabulary.pieces[2:])))


def of_marian(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """What the encoder reads and what the decoder writes: pieces of two models, ids of one file.

    The languages have an id file each where there are two. Two differences remain: a piece without
    an id is not used, the text is cut into others; and of several characters in a row that a model
    does not know, those that have ids are read one by one.

    Raises:
        CheckpointError: an id file is missing, damaged, or has no "<unk>".
    """
    ids = _marian_ids(folder / IDS)
    target = folder / TARGET_IDS
    written = _marian_ids(target) if target.is_file() else ids
    reads, writes = (
        _without_mark(tokenizer_of(_numbered(read_vocabulary(folder / name), numbers)))
        for name, numbers in zip(PAIR, (ids, written), strict=True)
    )
    return reads, writes


def of_byte_pairs(folder: Path, special: Mapping[str, Any]) -> Tokenizer:
    """A byte-level BPE vocabulary; `<s>` and `</s>` go around a text where they are its ends."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    prefix = bool(special.get("add_prefix_space", False))
    try:
        model = models.BPE.from_file(str(folder / IDS), str(folder / MERGES))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{IDS} or {MERGES} in {folder} is damaged: {error}") from None
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    added = folder / "added_tokens.json"
    more = sorted(_ids(added).items(), key=lambda item: item[1]) if added.is_file() else []
    names = _named(special) | {token: False for token, _ in more}
    tokenizer.add_special_tokens(
        [
            AddedToken(name, lstrip=strips, normalized=False, special=True)
            for name, strips in names.items()
            if name in dict(more) or tokenizer.token_to_id(name) is not None
        ]
    )
    first, last = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    if first is not None and last is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> </s> $B </s>",
            special_tokens=[("<s>", first), ("</s>", last)],
        )
    return tokenizer


def of_bytes(extra: int) -> Tokenizer:
    """ByT5's: three special tokens, the bytes, and `extra` sentinels in rising order."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    names = ["<pad>", "</s>", "<unk>"]
    ids = {name: index for index, name in enumerate(names)}
    ids |= {letter: len(names) + byte for letter, byte in byte_characters().items()}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    names += [f"<extra_id_{i}>" for i in range(extra)]
    tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False, special=True) for name in names]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def _numbered(vocabulary: Vocabulary, ids: Mapping[str, int]) -> Vocabulary:
    """The vocabulary with the ids of a file.

    Tokens that are no pieces of it are those of the other language: they are never read, but for
    single characters, and marked by a literal space, which is in no normalised text.
    """
    known = {piece.text: piece for piece in vocabulary.pieces}
    tokens = {index: token for token, index in ids.items()}
    pieces = []
    for index in range(max(tokens) + 1):
        token = tokens.get(index, str(index))
        code = token.startswith(">>") and token.endswith("<<")
        if token == "<unk>":
            piece = Piece(token, 0.0, "unknown")
        elif token in ("</s>", "<pad>") or code:
            piece = Piece(token, 0.0, "control")
        elif index in tokens and token in known:
            piece = known[token]
        else:
            piece = Piece(token if len(token) == 1 else f" {token}", 0.0, "unused")
        pieces.append(piece)
    return replace(vocabulary, pieces=tuple(pieces))


def _without_mark(tokenizer: Tokenizer) -> Tokenizer:
    """The same, decoding marked tokens to what they stand for."""
    from tokenizers import Tokenizer

    content = msgspec.json.decode(tokenizer.to_str())
    step = {"type": "Replace", "pattern": {"String": " "}, "content": ""}
    content["decoder"]["decoders"].insert(0, step)
    return Tokenizer.from_str(msgspec.json.encode(content).decode())


def _ids(path: Path) -> dict[str, int]:
    try:
        ids = msgspec.json.decode(path.read_bytes(), type=dict[str, int])
    except OSError as error:
        raise CheckpointError(f"{path.name} in {path.parent}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path.name} in {path.parent} is damaged: {error}") from None
    if len(set(ids.values())) < len(ids) or any(not 0 <= i < 1 << 24 for i in ids.values()):
        raise CheckpointError(f"{path.name} in {path.parent} has ids that repeat or make no sense")
    return ids


def _marian_ids(path: Path) -> dict[str, int]:
    ids = _ids(path)
    if "<unk>" not in ids:
        raise CheckpointError(f"{path.name} in {path.parent} has no <unk>; copy it again")
    return ids


def _named(special: Mapping[str, Any]) -> dict[str, bool]:
    """The special tokens that such vocabularies have and that the configs name.

    With whether one swallows the spaces before it.
    """
    entries = [value for name, value in special.items() if name.endswith("_token")]
    entries += special.get("additional_special_tokens") or []
    usual = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>")
    names = dict.fromkeys(usual, False)
    for entry in entries:
        if isinstance(entry, Mapping) and isinstance(entry.get("content"), str):
            names[entry["content"]] = bool(entry.get("lstrip"))
        elif isinstance(entry, str):
            names.setdefault(entry, False)
    return names
