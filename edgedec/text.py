"""Text to token ids and back: a bundle's tokenizer, its chat template, its streams.

Knows nothing about models. The files are not trusted: whatever is wrong with them is one line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgedec.detokenise import Decoder, Detokenizer, decoder
from edgedec.errors import BundleError, InputError, UnsupportedError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from edgedec.architecture import Architecture
    from edgedec.chat_template import ChatTemplate

FILE = "tokenizer.json"
SOURCE = "tokenizer.source.json"
"""Of the encoder, where it reads other ids than the decoder writes."""
TEMPLATE = "chat_template.jinja"
MAX_FILE = 256 << 20


class _Model(msgspec.Struct):
    unk_token: Any = None


class _File(msgspec.Struct):
    decoder: dict[str, Any] | None = None
    model: _Model = msgspec.field(default_factory=_Model)


class Text:
    """The tokenizer of one bundle, or its two. Made by `Text.open`."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        decoding: Decoder,
        template: ChatTemplate | None,
        source: Tokenizer | None = None,
    ):
        self._tokenizer = tokenizer
        self._decoding = decoding
        self._template = template
        self._source = source or tokenizer
        self._cache: dict[tuple[int, bool], bytes | None] = {}

    @classmethod
    def open(cls, path: Path, architecture: Architecture) -> Text:
        """Read `tokenizer.json`, and `tokenizer.source.json` and `chat_template.jinja` if there.

        Raises:
            BundleError: a file is missing, damaged or far too large, or names more ids than the
                encoder or decoder has.
            UnsupportedError: a kind of decoder that we do not have.
        """
        data = _read(path / FILE)
        try:
            file = msgspec.json.decode(data, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BundleError(f"{path / FILE} cannot be read: {error}; export again") from None
        decoding = decoder(file.decoder)
        tokenizer = _parse(data, path / FILE)
        reads = None
        if architecture.encoder is not None:
            reads = _source(path, tokenizer, architecture)
        template = None
        if (path / TEMPLATE).is_file():
            from edgedec.chat_template import ChatTemplate

            source = _decoded(_read(path / TEMPLATE), path / TEMPLATE)
            template = ChatTemplate(source, _names(tokenizer, architecture, file))
        return cls(tokenizer, decoding, template, reads)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The token ids of a text, with the tokenizer's own bos and the like if `special`.

        A rendered chat carries its special tokens in the text: encode it with `special=False`.
        The name of a special token anywhere in a text becomes that token, as in transformers.

        Raises:
            InputError: the text holds lone surrogates, which are no characters.
        """
        return _ids(self._tokenizer, text, special)

    def encode_source(self, text: str, special: bool = True) -> list[int]:
        """The ids that an encoder reads for a text, with the specials of its own tokenizer.

        Raises:
            InputError: as in `encode`.
        """
        return _ids(self._source, text, special)

    def decode(self, ids: Sequence[int], *, after: Sequence[int] = ()) -> str:
        """The text of token ids, without special tokens; U+FFFD for bytes that are no UTF-8.

        `after` are the ids before them: some tokenizers drop a space at the start of a text.
        """
        stream = self.stream(after=after)
        return "".join(map(stream.push, ids)) + stream.finish()

    def token(self, token: int) -> str:
        """A token as it stands in the vocabulary; empty for an id without a token."""
        return self._tokenizer.id_to_token(token) or "" if token >= 0 else ""

    def stream(self, *, after: Sequence[int] = ()) -> Detokenizer:
        """A detokenizer for what follows the ids in `after` (none: the start of a text)."""
        stream = Detokenizer(self._bytes, self._decoding.strip)
        for token in after:
            stream.push(token)
        return stream

    def chat(self, messages: Sequence[Mapping[str, str]], *, continue_last: bool = False) -> str:
        """Messages as one prompt that asks for the next, or for more of the last.

        Each is `{"role": ..., "content": ...}`. Encode the result with `special=False`.

        Raises:
            UnsupportedError: the bundle has no chat template.
            InputError: malformed messages, or ones that the template refuses.
            BundleError: the template is broken.
        """
        if self._template is None:
            raise UnsupportedError(
                "this model is not a chat model (its bundle has no chat template): "
                "give it a text to continue"
            )
        return self._template.render(messages, continue_last=continue_last)

    @property
    def is_chat(self) -> bool:
        """Whether there is a chat template."""
        return self._template is not None

    @cached_property
    def special(self) -> frozenset[int]:
        """The tokens that steer and are never shown: ends, turns, padding."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(token for token, entry in added.items() if entry.special)

    def _bytes(self, token: int, first: bool) -> bytes | None:
        key = (token, first)
        if key not in self._cache:
            name = self.token(token) if token not in self.special else ""
            self._cache[key] = self._decoding.piece(name, first) if name else None
        return self._cache[key]


def _ids(tokenizer: Tokenizer, text: str, special: bool) -> list[int]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text is not valid Unicode at character {error.start}: remove it"
        ) from None
    return list(tokenizer.encode(text, add_special_tokens=special).ids)


def _source(path: Path, tokenizer: Tokenizer, architecture: Architecture) -> Tokenizer | None:
    """The encoder's own tokenizer, if there is one; neither may name ids that the model lacks."""
    own = None
    if (path / SOURCE).is_file():
        own = _parse(_read(path / SOURCE), path / SOURCE)
    reads = architecture.source_embed or architecture.embed
    sides = [("decoder", FILE, tokenizer, architecture.vocab)]
    if architecture.frontend is None:
        file = FILE if own is None else SOURCE
        sides.append(("encoder", file, own or tokenizer, reads.vocab))
    for side, file, found, vocab in sides:
        count = found.get_vocab_size()
        if count > vocab:
            raise BundleError(
                f"{path / file} has {count} entries, but the {side} only {vocab}: they do not "
                "belong together; export again"
            )
    return own


def _names(tokenizer: Tokenizer, architecture: Architecture, file: _File) -> dict[str, str]:
    ids = architecture.tokens
    named = {"bos_token": ids.bos, "eos_token": next(iter(ids.eos), None), "pad_token": ids.pad}
    found = {
        name: tokenizer.id_to_token(token) for name, token in named.items() if token is not None
    }
    if isinstance(file.model.unk_token, str):
        found["unk_token"] = file.model.unk_token
    return {name: token for name, token in found.items() if token is not None}


def _parse(data: bytes, path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(data)
    except BaseException as error:  # a panic of the library derives from BaseException
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{path} is not a tokenizer: {reason}; export again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE:
            raise BundleError(f"{path} is larger than {MAX_FILE >> 20} MiB: not what it says")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}; export again") from None


def _decoded(data: bytes, path: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not UTF-8 (byte {error.start}); export again") from None
