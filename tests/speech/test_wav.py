"""WAV files of every form that is read, and whatever else may lie in a file of that name."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec.errors import InputError
from edgedec.speech.wav import Sound, parse, read

WAVE = np.array([0, 0.5, -0.5, 0.25, -1, 0.984375], np.float64)


def riff(fmt: bytes, data: bytes, *, before: bytes = b"", size: int | None = None) -> bytes:
    size = len(data) if size is None else size
    body = b"WAVE" + struct.pack("<4sI", b"fmt ", len(fmt)) + fmt + before
    body += struct.pack("<4sI", b"data", size) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def form(kind: int, bits: int, channels: int = 1, rate: int = 16000) -> bytes:
    frame = channels * bits // 8
    return struct.pack("<HHIIHH", kind, channels, rate, rate * frame, frame, bits)


def encoded(kind: int, bits: int) -> bytes:
    if kind == 3:
        return WAVE.astype(f"<f{bits // 8}").tobytes()
    if bits == 8:
        return np.round(WAVE * 128 + 128).clip(0, 255).astype(np.uint8).tobytes()
    whole = np.round(WAVE * 2.0 ** (bits - 1)).astype("<i8")
    return whole.view(np.uint8).reshape(-1, 8)[:, : bits // 8].tobytes()


FORMS = [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)]


@pytest.mark.parametrize(("kind", "bits"), FORMS)
@pytest.mark.parametrize("extensible", [False, True])
def test_every_form(kind: int, bits: int, extensible: bool) -> None:
    header = form(kind, bits, rate=44100)
    if extensible:
        header = form(0xFFFE, bits, rate=44100) + struct.pack("<HHIH", 22, bits, 4, kind)
        header += bytes.fromhex("000000001000800000aa00389b71")
    sound = parse(riff(header, encoded(kind, bits)), "x.wav")
    assert sound.rate == 44100
    assert sound.samples.dtype == np.float32
    np.testing.assert_allclose(sound.samples, WAVE, atol=1e-7, rtol=0)


def test_the_standard_library_writes_what_we_read(tmp_path: Path) -> None:
    numbers = np.random.RandomState(0).randint(-(2**15), 2**15, 999).astype("<i2")
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(22050)
        file.writeframes(numbers.tobytes())
    sound = read(tmp_path / "x.wav")
    assert sound.rate == 22050
    assert (sound.samples * 2**15).astype(int).tolist() == numbers.tolist()


def test_chunks_that_nobody_knows_are_passed_over() -> None:
    odd = struct.pack("<4sI", b"LIST", 3) + b"abc\0"
    data = riff(form(1, 16), encoded(1, 16), before=odd)
    assert len(parse(data, "x.wav").samples) == len(WAVE)


def test_a_pipe_does_not_know_its_length() -> None:
    data = riff(form(1, 16), encoded(1, 16), size=0xFFFFFFFF)
    assert len(parse(data, "x.wav").samples) == len(WAVE)


def test_channels_are_mixed_only_if_asked() -> None:
    both = np.array([[0.5, 0.25], [-1, 0.5]], "<f4")
    data = riff(form(3, 32, channels=2), both.tobytes())
    with pytest.raises(InputError, match=r"has 2 channels.*--mix"):
        parse(data, "talk.wav")
    assert parse(data, "talk.wav", mix=True).samples.tolist() == [0.375, -0.25]


NOT_A_NUMBER = np.array([0, np.nan], "<f4").tobytes()
BROKEN = {
    "empty": (b"", "is empty"),
    "no wav": (b"ID3\x04" + bytes(40), "is no WAV file"),
    "big-endian": (b"RIFX" + riff(form(1, 16), b"ab")[4:], "is no WAV file"),
    "no chunks": (b"RIFF\x04\0\0\0WAVE", "without samples"),
    "no data": (riff(form(1, 16), b"")[:-8], "without samples"),
    "zero length": (riff(form(1, 16), b""), "its length is zero"),
    "cut short": (riff(form(1, 16), bytes(100))[:-50], "100 bytes of 'data' and has 50"),
    "cut in the format": (riff(form(1, 16), b"")[:30], "cut short"),
    "a short format": (riff(form(1, 16)[:14], b"ab"), "has 14 bytes"),
    "data first": (b"RIFF\x0c\0\0\0WAVEdata\0\0\0\0", "before their format"),
    "half a sample": (riff(form(1, 16), b"abc"), "in the middle of a sample"),
    "compressed": (riff(form(85, 0), b"ab"), r"compressed sound \(form 85\)"),
    "12 bits": (riff(form(1, 12), b"ab"), "integers of 12 bits"),
    "floats of 16 bits": (riff(form(3, 16), b"ab"), "floats of 16 bits"),
    "no channels": (riff(form(1, 16, channels=0), b"ab"), "0 channels"),
    "a wrong frame": (riff(form(1, 16)[:12] + b"\x07\0\x10\0", b"ab"), "in 7 bytes"),
    "no rate": (riff(form(1, 16, rate=0), b"ab"), "0 samples a second"),
    "a rate beyond belief": (riff(form(1, 8)[:4] + b"\xff" * 4 + form(1, 8)[8:], b"a"), "429496"),
    "not a number": (riff(form(3, 32), NOT_A_NUMBER), "no numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_told(name: str) -> None:
    data, says = BROKEN[name]
    with pytest.raises(InputError, match=says) as error:
        parse(data, "talk.wav")
    assert str(error.value).startswith("talk.wav ")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "none.wav")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path)


def try_to_parse(data: bytes) -> None:
    try:
        sound = parse(data, "x.wav", mix=True)
    except InputError:
        return
    assert isinstance(sound, Sound)
    assert len(sound.samples)
    assert np.isfinite(sound.samples).all()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try_to_parse(data)
    try_to_parse(b"RIFF\0\0\0\0WAVE" + data)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(FORMS),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=6),
    st.integers(0, 120),
)
def test_damaged_files(
    kind: tuple[int, int], channels: int, changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(riff(form(*kind, channels=channels), encoded(*kind)))
    for place, value in changes:
        data[place % len(data)] = value
    try_to_parse(bytes(data[:length]))
    try_to_parse(bytes(data))
