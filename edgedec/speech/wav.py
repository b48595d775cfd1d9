"""WAV files (RIFF): integers of 8 to 32 bits and floats, as samples between -1 and 1.

The bytes may come from anywhere: no size in them is believed. The standard library's `wave` reads
no floats. Knows nothing of what is done with the sound.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedec.errors import InputError

Floats = NDArray[np.float32]

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
RATES = range(2_000, 768_001)
MAX_CHANNELS = 64
UNKNOWN = 0xFFFFFFFF
"""The size of a chunk whose writer could not go back to fill it in (a pipe): until the end."""

CONVERT = "convert it first, for example with: ffmpeg -i FILE -ac 1 -ar 16000 sound.wav"


@dataclass(frozen=True, slots=True)
class Sound:
    """One channel of samples [n] between -1 and 1, `rate` of them a second."""

    samples: Floats
    rate: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """How samples lie in the data: all channels of one moment side by side."""

    kind: int
    channels: int
    rate: int
    bits: int

    @property
    def frame(self) -> int:
        """Bytes of one moment."""
        return self.channels * self.bits // 8


def read(path: Path, *, mix: bool = False) -> Sound:
    """Read a WAV file; `mix` takes the mean of several channels.

    Raises:
        InputError: it cannot be read, is no sound WAV file, holds no samples, or several channels
            that are not to be mixed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    return parse(data, str(path), mix=mix)


def parse(data: bytes, name: str, *, mix: bool = False) -> Sound:
    """The same of a file's bytes; `name` is what messages call it."""
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        kind = "is empty" if not data else "is no WAV file"
        raise InputError(f"{name} {kind}: {CONVERT}")
    layout: _Layout | None = None
    for tag, start, size in _chunks(data, name):
        if tag == b"fmt ":
            layout = _layout(data[start : start + size], name)
        elif tag == b"data":
            if layout is None:
                raise InputError(f"{name} is damaged: its samples come before their format")
            return _sound(memoryview(data)[start : start + size], layout, name, mix)
    raise InputError(f"{name} is damaged: it is a WAV file without samples")


def _chunks(data: bytes, name: str) -> Iterator[tuple[bytes, int, int]]:
    """The tag, place and size of each chunk."""
    at = 12
    while at + 8 <= len(data):
        tag, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if size == UNKNOWN and tag == b"data":
            size = len(data) - at
        if at + size > len(data):
            raise InputError(
                f"{name} is cut short: it should hold {size} bytes of {_shown(tag)} and has "
                f"{len(data) - at}"
            )
        yield tag, at, size
        at += size + size % 2


def _layout(header: bytes, name: str) -> _Layout:
    if len(header) < 16:
        raise InputError(f"{name} is damaged: its format has {len(header)} bytes, needs 16")
    kind, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", header)
    if kind == EXTENSIBLE and len(header) >= 26:
        (kind,) = struct.unpack_from("<H", header, 24)
    if bits not in {PCM: (8, 16, 24, 32), FLOAT: (32, 64)}.get(kind, ()):
        raise InputError(
            f"{name} holds {_form(kind, bits)}; integers of 8, 16, 24 or 32 bits and floats of 32 "
            f"or 64 can be read: {CONVERT}"
        )
    layout = _Layout(kind, channels, rate, bits)
    if not 1 <= channels <= MAX_CHANNELS or frame != layout.frame:
        raise InputError(
            f"{name} is damaged: {channels} channels of {bits} bits in {frame} bytes cannot be"
        )
    if rate not in RATES:
        raise InputError(
            f"{name} has {rate} samples a second; {RATES[0]} to {RATES[-1]} can be read"
        )
    return layout


def _sound(data: memoryview, layout: _Layout, name: str, mix: bool) -> Sound:
    if layout.channels > 1 and not mix:
        raise InputError(
            f"{name} has {layout.channels} channels, the model hears one: mix them (--mix), or "
            "keep one, for example with: ffmpeg -i FILE -af 'pan=mono|c0=c0' sound.wav"
        )
    if len(data) % layout.frame:
        raise InputError(f"{name} is damaged: it ends in the middle of a sample")
    if not data:
        raise InputError(f"{name} has no sound in it: its length is zero")
    samples = _numbers(data, layout).reshape(-1, layout.channels)
    with np.errstate(over="ignore", invalid="ignore"):
        one = samples.mean(1, dtype=np.float32) if layout.channels > 1 else samples[:, 0]
    if not np.isfinite(one).all():
        raise InputError(f"{name} is damaged: it holds samples that are no numbers")
    return Sound(np.ascontiguousarray(one), layout.rate)


def _numbers(data: memoryview, layout: _Layout) -> Floats:
    """Samples as float32 [n * channels]."""
    if layout.kind == FLOAT:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.frombuffer(data, f"<f{layout.bits // 8}").astype(np.float32)
    if layout.bits == 8:
        # The one form without a sign.
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / np.float32(128)
    if layout.bits == 24:
        parts = np.frombuffer(data, np.uint8).reshape(-1, 3)
        whole = np.zeros((len(parts), 4), np.uint8)
        # In the upper three bytes the sign is where an int32 has it.
        whole[:, 1:] = parts
        return whole.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    numbers: Floats = np.frombuffer(data, f"<i{layout.bits // 8}").astype(np.float32)
    numbers /= np.float32(2 ** (layout.bits - 1))
    return numbers


def _form(kind: int, bits: int) -> str:
    names = {PCM: "integers", FLOAT: "floats"}
    return f"{names[kind]} of {bits} bits" if kind in names else f"compressed sound (form {kind})"


def _shown(tag: bytes) -> str:
    return repr(tag.decode("ascii", "replace"))
