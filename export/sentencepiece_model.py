"""SentencePiece vocabularies as `tokenizers` ones, with the same ids for the same text.

Knows nothing about models. Three differences remain: a control symbol written out in a text
("<s>") becomes its id, which chat templates rely on; a normalisation rule that spans several
grapheme clusters is applied cluster by cluster; and a Unigram model without the characters for it
reads "<0x41>" as a byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgedec.errors import CheckpointError, MissingExtraError, UnsupportedError

if TYPE_CHECKING:
    from tokenizers import Tokenizer, decoders, models, normalizers

SPACE = "\u2581"
Kind = Literal["normal", "unknown", "control", "user", "unused", "byte"]
_KINDS: dict[int, Kind] = dict(
    enumerate(("normal", "unknown", "control", "user", "unused", "byte"), start=1)
)
_ALGORITHMS: dict[int, Literal["unigram", "bpe"]] = {1: "unigram", 2: "bpe"}


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary; its place in the list is its id."""

    text: str
    score: float
    kind: Kind = "normal"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A SentencePiece model as data: `charsmap` is its compiled normalisation table, if any."""

    pieces: tuple[Piece, ...]
    algorithm: Literal["unigram", "bpe"]
    charsmap: bytes = b""
    dummy_prefix: bool = True
    remove_extra_spaces: bool = False
    escape_spaces: bool = True
    byte_fallback: bool = True


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a SentencePiece `.model` file.

    Raises:
        CheckpointError: it is not one.
        UnsupportedError: its algorithm is neither BPE nor Unigram, or spaces follow words.
        MissingExtraError: the package sentencepiece is not there.
    """
    try:
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    except ImportError as error:
        raise MissingExtraError(
            f"converting {path.name}", error.name or "sentencepiece", "export"
        ) from None
    content = path.read_bytes()
    try:
        SentencePieceProcessor(model_proto=content)
    except (OSError, RuntimeError):
        raise CheckpointError(f"{path.name} is not a SentencePiece model; copy it again") from None
    messages: Any = sentencepiece_model_pb2
    model = messages.ModelProto.FromString(content)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    if trainer.model_type not in _ALGORITHMS or trainer.treat_whitespace_as_suffix:
        raise UnsupportedError(
            f"{path.name}: only BPE and Unigram models with spaces before words are supported"
        )
    return Vocabulary(
        tuple(Piece(piece.piece, piece.score, _KINDS[piece.type]) for piece in model.pieces),
        _ALGORITHMS[trainer.model_type],
        normalizer.precompiled_charsmap,
        normalizer.add_dummy_prefix,
        normalizer.remove_extra_whitespaces,
        normalizer.escape_whitespaces,
        trainer.byte_fallback,
    )


def tokenizer_of(vocabulary: Vocabulary) -> Tokenizer:
    """The `tokenizers` object that gives the vocabulary's ids; it adds no bos or eos."""
    from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers

    model = _bpe(vocabulary) if vocabulary.algorithm == "bpe" else _unigram(vocabulary)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = _normalizer(vocabulary)
    tokenizer.decoder = _decoder(vocabulary)
    users = sorted((p.text for p in _of(vocabulary, "user")), key=len, reverse=True)
    if users:
        # Not added tokens: the text after one would get a space of its own in front.
        pattern = Regex("|".join(map(re.escape, users)))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
    tokenizer.add_special_tokens(
        [
            AddedToken(piece.text, normalized=False, special=True)
            for piece in _of(vocabulary, "control", "unknown")
        ]
    )
    return tokenizer


def merges(pieces: dict[str, float]) -> list[tuple[str, str]]:
    """The BPE merges of scored pieces, most urgent first.

    SentencePiece joins the adjacent pair whose union scores highest, whatever the halves are; so
    each way to cut a piece into two known ones is a merge, ranked by the whole's score.
    """
    found = []
    for piece, score in pieces.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces:
                found.append((-score, -cut, left, right))
    # The sort is stable: equal scores keep the vocabulary's order, then longer left halves first,
    # which is how runs of one character join from the left.
    return [(left, right) for _, _, left, right in sorted(found, key=lambda item: item[0])]


def _of(vocabulary: Vocabulary, *kinds: Kind) -> list[Piece]:
    return [piece for piece in vocabulary.pieces if piece.kind in kinds]


def _unknown(vocabulary: Vocabulary) -> Piece | None:
    return next(iter(_of(vocabulary, "unknown")), None)


def _bpe(vocabulary: Vocabulary) -> models.BPE:
    from tokenizers import models

    ids = {piece.text: index for index, piece in enumerate(vocabulary.pieces)}
    if len(ids) < len(vocabulary.pieces):
        raise CheckpointError("the tokenizer has the same piece twice; copy it again")
    unknown = _unknown(vocabulary)
    return models.BPE(
        vocab=ids,
        merges=merges({piece.text: piece.score for piece in _of(vocabulary, "normal")}),
        unk_token=unknown.text if unknown else None,
        fuse_unk=True,
        byte_fallback=vocabulary.byte_fallback,
        # A user-defined symbol stands alone after the split and is taken whole.
        ignore_merges=bool(_of(vocabulary, "user")),
    )


def _unigram(vocabulary: Vocabulary) -> models.Unigram:
    from tokenizers import models

    worst = min((piece.score for piece in _of(vocabulary, "normal")), default=0.0)
    # "<0x41>" written out is no byte: six single characters score better.
    hidden = 6 * worst - 1
    scored = [
        (piece.text, hidden if piece.kind in ("byte", "unused") else piece.score)
        for piece in vocabulary.pieces
    ]
    unknown = _unknown(vocabulary)
    unknown_id = vocabulary.pieces.index(unknown) if unknown else None
    return models.Unigram(scored, unknown_id, vocabulary.byte_fallback)


def _normalizer(vocabulary: Vocabulary) -> normalizers.Sequence:
    from tokenizers import Regex, normalizers

    steps: list[normalizers.Normalizer] = []
    if vocabulary.charsmap:
        steps.append(normalizers.Precompiled(vocabulary.charsmap))
    if vocabulary.remove_extra_spaces:
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    space = SPACE if vocabulary.escape_spaces else " "
    if vocabulary.dummy_prefix:
        steps.append(normalizers.Prepend(space))
    if vocabulary.escape_spaces:
        steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps)


def _decoder(vocabulary: Vocabulary) -> decoders.Decoder:
    from tokenizers import decoders

    steps: list[decoders.Decoder] = [decoders.Replace(SPACE, " ")]
    if vocabulary.byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if vocabulary.dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)
