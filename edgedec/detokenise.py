"""Token ids to text, piece by piece. Knows the decoders of `tokenizer.json`, not how to encode.

The library's own streaming decoder is not used: it fails on bytes that are no UTF-8, and its time
grows with the square of a run of tokens that do not complete a character. Here every token is a
fixed run of bytes, decoded incrementally, which is linear and gives the same text. Where bytes are
no UTF-8, each broken sequence becomes one U+FFFD.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from edgedec.errors import BundleError, UnsupportedError

TokenBytes = Callable[[int, bool], bytes | None]
"""(id, whether it is the first token of the text) -> its bytes; None if it is not shown."""

_Piece = str | bytes
_Step = Callable[[_Piece, bool], _Piece]


@dataclass(frozen=True, slots=True)
class Decoder:
    """How tokens become bytes: `piece` for each, then up to `strip` spaces off the very start."""

    piece: Callable[[str, bool], bytes]
    strip: int = 0


class Detokenizer:
    """The text of one token stream, never a broken character. Made by `Text.stream`."""

    def __init__(self, token_bytes: TokenBytes, strip: int) -> None:
        self._bytes = token_bytes
        self._strip = strip
        self._first = True
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._whole = True
        """Whether no character waits for its other bytes."""

    def push(self, token: int) -> str:
        """Take the next token id; returns the characters that are now complete, often none."""
        data = self._take(token)
        if self._whole and data.isascii():
            return data.decode("ascii")
        text = self._utf8.decode(data) if data else ""
        self._whole = not self._utf8.getstate()[0]
        return text

    def flush(self) -> str:
        """End the text. An incomplete character at the end is dropped."""
        self._utf8.reset()
        self._whole = True
        return ""

    def finish(self) -> str:
        """End the text, with U+FFFD for an incomplete character, as in the text as a whole."""
        self._whole = True
        return self._utf8.decode(b"", final=True)

    def _take(self, token: int) -> bytes:
        data = self._bytes(token, self._first)
        if data is None:
            return b""
        self._first = False
        while self._strip and data:
            if not data.startswith(b" "):
                self._strip = 0
                break
            data = data[1:]
            self._strip -= 1
        return data


def decoder(spec: Mapping[str, Any] | None) -> Decoder:
    """The decoder that the `decoder` entry of a tokenizer.json describes; None joins with spaces.

    Raises:
        UnsupportedError: a kind that is not known here.
        BundleError: a known kind with fields that make no sense.
    """
    if spec is None:
        return Decoder(lambda token, first: (token if first else f" {token}").encode())
    try:
        return _sequence(spec["decoders"] if spec["type"] == "Sequence" else [spec])
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise BundleError(
            f"tokenizer.json has a decoder that cannot be read ({type(error).__name__}: {error})"
        ) from None


def _sequence(specs: list[Mapping[str, Any]]) -> Decoder:
    steps: list[_Step] = []
    strip, fused = 0, False
    for spec in specs:
        kind = spec["type"]
        if kind == "Fuse":
            fused = True
        elif kind == "Strip" and fused and spec["content"] == " " and not spec["stop"]:
            strip = int(spec["start"])
        elif kind in _STEPS and not fused:
            steps.append(_STEPS[kind](spec))
        else:
            known = ", ".join([*_STEPS, "Fuse", "Strip (of leading spaces, after Fuse)"])
            raise UnsupportedError(
                f"the tokenizer's decoder {kind} is not supported here; supported are: {known}"
            )
    return Decoder(_chain(steps), strip)


def _chain(steps: list[_Step]) -> Callable[[str, bool], bytes]:
    def piece(token: str, first: bool) -> bytes:
        value: _Piece = token
        for step in steps:
            value = step(value, first)
        return value.encode("utf-8", "replace") if isinstance(value, str) else value

    return piece


def _replace(spec: Mapping[str, Any]) -> _Step:
    old, new = str(spec["pattern"]["String"]), str(spec["content"])
    return lambda piece, first: piece.replace(old, new) if isinstance(piece, str) else piece


def _metaspace(spec: Mapping[str, Any]) -> _Step:
    mark = str(spec["replacement"])
    # Older files have `add_prefix_space` in place of `prepend_scheme`.
    scheme = spec.get("prepend_scheme", "always" if spec.get("add_prefix_space", True) else "never")

    def step(piece: _Piece, first: bool) -> _Piece:
        if isinstance(piece, bytes):
            return piece
        return piece.replace(mark, "" if first and scheme != "never" else " ")

    return step


def _byte_fallback(_spec: Mapping[str, Any]) -> _Step:
    def step(piece: _Piece, _first: bool) -> _Piece:
        named = isinstance(piece, str) and len(piece) == 6 and piece.startswith("<0x")
        if not named or piece[5:] != ">":
            return piece
        try:
            return bytes([int(piece[3:5], 16)])
        except ValueError:
            return piece

    return step


def _byte_level(_spec: Mapping[str, Any]) -> _Step:
    table = byte_characters()

    def step(piece: _Piece, _first: bool) -> _Piece:
        if isinstance(piece, bytes):
            return piece
        try:
            return bytes([table[character] for character in piece])
        except KeyError:
            # An added token is plain text, not written in the alphabet of bytes.
            return piece

    return step


@lru_cache(maxsize=1)
def byte_characters() -> dict[str, int]:
    """GPT-2's alphabet: the character that stands for each byte in a byte-level vocabulary.

    Bytes that print stand for themselves, the others for U+0100 and following in order.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(b): b for b in printing} | {chr(0x100 + i): b for i, b in enumerate(others)}


_STEPS: dict[str, Callable[[Mapping[str, Any]], _Step]] = {
    "ByteLevel": _byte_level,
    "Metaspace": _metaspace,
    "Replace": _replace,
    "ByteFallback": _byte_fallback,
}
